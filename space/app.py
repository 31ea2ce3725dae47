"""captionkit as a Hugging Face Space: captions of photos, and where the model looked for each word."""

import os
import sys
from pathlib import Path
from typing import Any

import gradio as gr

# captionkit's sources: beside this file in a Space, one folder up in a checkout.
here = Path(__file__).resolve().parent
sys.path[:0] = [str(folder / "src") for folder in (here, here.parent) if (folder / "src" / "captionkit").is_dir()]

import captionkit  # noqa: E402
from captionkit.inference.figures import figure_inputs  # noqa: E402
from captionkit.viz.overlay import overlays  # noqa: E402

model = captionkit.load(os.environ.get("CAPTIONKIT_MODEL"))
examples = [[str(photo), 3] for photo in sorted((Path(captionkit.__file__).parent / "assets/examples").glob("*.jpg"))]


def describe(photo: str, num_captions: int) -> tuple[dict[str, float], list[tuple[Any, str]]]:
    """Return the captions of a photo with their confidences, and for each word of the best one the photo lit by it."""
    try:
        beams = max(num_captions, model.decoding.num_beams)
        best = model.caption(photo, num_captions=num_captions, num_beams=beams)
    except captionkit.CaptionkitError as error:
        raise gr.Error(str(error).replace(photo, "the photo")) from None
    image, words, region = figure_inputs(model, photo, best)
    _, lit = overlays(image, [attention for _, attention in words if attention.size], region, image.size)
    confidences = {one.text: one.confidence for one in (best, *best.alternatives)}
    return confidences, [(panel, word) for panel, (word, _) in zip(lit, words, strict=False)]


def caption(
    photos: list[str],
    num_captions: int,
    num_beams: int,
    temperature: float,
    top_p: float,
    maps: bool,
    min_confidence: float,
    beam: int,  # what num_beams was called before version 0.2; 0: not given
) -> list[dict[str, Any]]:
    """Caption photos. Each has a record: name, captions (text, log_prob, confidence, words; with `maps` their
    attention; with `min_confidence` whether they need a review) and ms, or name and error.
    """
    options: dict[str, Any] = {"num_captions": num_captions, "num_beams": beam or num_beams, "top_p": top_p}
    options |= {"temperature": temperature, "min_confidence": min_confidence or None}
    records = []
    try:
        for photo, outcome in zip(photos or [], model.stream(photos or [], **options), strict=True):
            name = Path(photo).name
            record = outcome.to_dict(name, maps=maps)
            record.pop("path")  # the client takes whatever has a path for a file to fetch
            if "error" in record:
                record["error"] = record["error"].replace(photo, name)
            records.append({"name": name, **record})
    except captionkit.CaptionkitError as error:
        raise gr.Error(str(error)) from None
    return records


one = gr.Interface(
    describe,
    [gr.Image(type="filepath", label="Photo"), gr.Slider(1, 5, 3, step=1, precision=0, label="Captions")],
    [gr.Label(label="Captions, and how likely each is right"), gr.Gallery(label="Where it looked for each word")],
    examples=examples,
    cache_examples=False,
    flagging_mode="never",
    api_visibility="private",
)
several = gr.Interface(
    caption,
    [
        gr.File(file_count="multiple", file_types=["image"], label="Photos"),
        gr.Slider(1, 10, 1, step=1, precision=0, label="Captions of each"),
        gr.Slider(1, 10, model.decoding.num_beams, step=1, precision=0, label="Beams"),
        gr.Slider(0, 2, 0, label="Temperature", info="0: the most likely captions; else captions drawn at random"),
        gr.Slider(0.05, 1, 1, label="Top p"),
        gr.Checkbox(False, label="Attention maps too"),
        gr.Slider(0, 1, 0, label="Review below this confidence"),
        gr.Number(0, precision=0, visible=False, label="beam"),
    ],
    gr.JSON(label="Records"),
    flagging_mode="never",
    api_name="caption",
)
page = gr.TabbedInterface([one, several], ["A photo", "Several photos, as JSON"], title="captionkit")

if __name__ == "__main__":
    page.launch(server_name="0.0.0.0", max_file_size="32mb")
