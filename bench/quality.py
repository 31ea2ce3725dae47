"""Captions of a validation split, scored by pycocoevalcap (needs Java for its tokenizer and METEOR).

python bench/quality.py DATA [--model MODEL] [--split val] [--beam 3] [--length-penalty 0.7] [--output results.json]
"""

from __future__ import annotations

import argparse
import contextlib
import io
import itertools
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import captionkit
from captionkit.captioner import Captioner
from captionkit.datasets import CaptionSet


def scores(candidates: dict[str, str], references: dict[str, list[str]]) -> dict[str, float]:
    """pycocoevalcap's numbers on its own scale."""
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.meteor.meteor import Meteor
    from pycocoevalcap.rouge.rouge import Rouge
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    tokenizer = PTBTokenizer()
    truth = tokenizer.tokenize({key: [{"caption": c} for c in captions] for key, captions in references.items()})
    said = tokenizer.tokenize({key: [{"caption": caption}] for key, caption in candidates.items()})
    found: dict[str, float] = {}
    for name, scorer in (("BLEU", Bleu(4)), ("METEOR", Meteor()), ("ROUGE-L", Rouge()), ("CIDEr-D", Cider())):
        with contextlib.redirect_stdout(io.StringIO()):
            value, _ = scorer.compute_score(truth, said)
        found |= {f"BLEU-{n}": v for n, v in enumerate(value, 1)} if name == "BLEU" else {name: float(value)}
    return found


def habits(captions: list[str]) -> dict[str, float]:
    """Signs of collapse: how often one sentence is said, stutters, unknown words."""
    counts = Counter(captions)
    words = [caption.split() for caption in captions]
    return {
        "most repeated caption": counts.most_common(1)[0][1] / len(captions),
        "distinct": len(counts) / len(captions),
        "with a stutter": sum(any(a == b for a, b in itertools.pairwise(w)) for w in words) / len(captions),
        "with <unk>": sum("<unk>" in w for w in words) / len(captions),
        "words": sum(map(len, words)) / len(captions),
        "vocabulary": len({word for w in words for word in w}),
    }


def captions_of(model: Captioner, pictures: CaptionSet, batch: int) -> list[str]:
    outcomes = model.stream([example.image for example in pictures], batch=batch)
    return [outcome.caption.text if outcome.caption else "" for outcome in outcomes]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--model")
    parser.add_argument("--split", default="val")
    parser.add_argument("--beam", type=int)
    parser.add_argument("--length-penalty", type=float)
    parser.add_argument("--max-length", type=int)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--output", type=Path, help="write the captions as COCO results")
    options = parser.parse_args()

    pictures = captionkit.open_dataset(options.data).split(options.split)
    model = captionkit.load(options.model)
    given = {name: getattr(options, name) for name in ("beam", "length_penalty", "max_length")}
    model.decoding = replace(model.decoding, **{name: value for name, value in given.items() if value is not None})
    said = captions_of(model, pictures, options.batch)
    ids = [str(example.id) for example in pictures]
    if options.output:
        rows = [{"image_id": e.id, "caption": caption} for e, caption in zip(pictures, said, strict=True)]
        options.output.write_text(json.dumps(rows))
    references = {key: list(example.captions) for key, example in zip(ids, pictures, strict=True)}
    print(f"{model.folder.path}, {len(pictures)} pictures of split {options.split}, {model.decoding}")
    for name, value in {**scores(dict(zip(ids, said, strict=True)), references), **habits(said)}.items():
        print(f"{name:24} {value:10.4f}")


if __name__ == "__main__":
    main()
