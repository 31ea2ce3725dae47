"""A caption's confidence: the features, the fitted regression, how it is stored, and what is asked of it."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import captionkit
from captionkit.cli.caption import caption_inputs
from captionkit.cli.main import main
from captionkit.data.layouts import CaptionSet, Example, captioned_split
from captionkit.errors import CaptionkitError, ModelError
from captionkit.eval.fit_confidence import area_under_curve, fit_confidence
from captionkit.eval.out_of_distribution import KINDS, out_of_distribution_images
from captionkit.inference.caption_confidence import DECODING_FEATURES, CaptionConfidence, decoding_features, evidence_of
from captionkit.inference.captioner import Outcome
from captionkit.inference.model_folder import BUNDLED, open_model, update_model
from captionkit.inference.search import Overview
from captionkit.metrics.agreement import RIGHT_FROM, ReferenceAgreement
from captionkit.viz.page import Card, captions_page

EXAMPLES = BUNDLED.parent / "examples"


def test_the_features_by_hand() -> None:
    maps = np.array([[0.5, 0.5, 0, 0], [0, 0, 0.5, 0.5], [0.25, 0.25, 0.25, 0.25]])
    found = dict(
        zip(
            DECODING_FEATURES,
            decoding_features(np.log([0.5, 0.25, 0.5]), np.log(0.5**5), maps, np.array([0.5, -1.0, 2.0])),
            strict=True,
        )
    )
    assert found["log_prob"] == pytest.approx(np.log(0.0625) / 3) and found["least"] == pytest.approx(np.log(0.25))
    assert found["probability"] == pytest.approx(1.25 / 3) and found["end"] == pytest.approx(np.log(0.5))
    assert found["length"] == pytest.approx(np.log(3)) and found["peak"] == pytest.approx(2)
    assert found["spread"] == pytest.approx(2 / 3, abs=1e-6) and found["spread_change"] == pytest.approx(
        np.sqrt(1 / 18)
    )
    assert found["movement"] == pytest.approx(4 * np.sqrt(0.125 / 3))
    assert [found[f"{name}evidence"] for name in ("", "most_", "least_")] == [0.5, 2, -1]
    still = dict(
        zip(
            DECODING_FEATURES,
            decoding_features(np.log([0.5] * 3), np.log(0.1), maps[[2, 2, 2]], np.zeros(1)),
            strict=True,
        )
    )
    assert still["movement"] == 0 and still["spread"] == pytest.approx(1)
    assert np.isfinite(
        decoding_features(np.array([-np.inf, -1.0]), -np.inf, np.array([[1.0, 0.0]] * 2), np.zeros(1))
    ).all()


def test_confidence_is_the_regression_and_is_stored() -> None:
    made = CaptionConfidence(0.5, {"log_prob": 2.0, "peak": -1.0}, [1.0, -3.0], 0.4, {"note": "x"})
    features = np.zeros(len(DECODING_FEATURES))
    features[[DECODING_FEATURES.index("log_prob"), DECODING_FEATURES.index("peak")]] = -1.0, 0.5
    value = 0.5 - 2 - 0.5 + 2 - 3
    assert made(features, np.array([2.0, 1.0], np.float32)) == pytest.approx(1 / (1 + np.exp(-value)))
    assert CaptionConfidence.from_dict(json.loads(json.dumps(made.to_dict()))) == made
    with pytest.raises(ModelError, match=r"fitted on 2 means .* has none; fit it again with `captionkit calibrate`"):
        made(features, None)
    with pytest.raises(ModelError, match="now has 3"):
        made(features, np.zeros(3))


def test_the_evidence_is_that_of_a_captions_tokens() -> None:
    evidence = np.array([0.0, 5.0, -1.0, 2.0], np.float32)
    assert evidence_of(Overview(np.zeros(2), evidence), (3, 1, 1)).tolist() == [2, 5, 5]
    for overview in (None, Overview(np.zeros(2)), Overview(np.zeros(2), evidence)):
        assert evidence_of(overview, ()).tolist() == [0]
    assert CaptionConfidence(0.0, {"evidence": 1.0}).sees_images and CaptionConfidence(0.0, {}, [1.0]).sees_images
    assert not CaptionConfidence(0.0, {"evidence": 0.0, "peak": 1.0}).sees_images


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"told": {}}, "offset missing"),
        ({"offset": "high", "told": {}}, "'high' is no number"),
        ({"offset": 0, "told": {"luck": 1}}, "no feature luck"),
        ({"offset": 0, "told": {}, "image": [float("nan")]}, "nan is no number"),
        ({"offset": 0, "told": {}, "image": 3}, "image must be a list"),
        ({"offset": 0, "told": {}, "sure_from": 2}, "sure_from must be a number from 0 to 1"),
        ({"offset": 0, "told": {}, "imge": []}, "did you mean image"),
    ],
)
def test_a_damaged_table_is_named(values: dict, said: str) -> None:
    with pytest.raises(ModelError, match=f"confidence.*{said}"):
        CaptionConfidence.from_dict(values)


def test_the_area_under_the_curve() -> None:
    values = np.array([0.1, 0.4, 0.4, 0.9])
    assert area_under_curve(values, np.array([False, False, True, True])) == pytest.approx(3.5 / 4)
    assert area_under_curve(-values, np.array([False, False, True, True])) == pytest.approx(0.5 / 4)
    assert np.isnan(area_under_curve(values, np.ones(4, bool)))


def test_agreement_weighs_what_people_agree_on() -> None:
    cat = ["a cat on a sofa", "a gray cat sleeps", "the cat is lying down"]
    skier = ["a skier on a slope", "a man skis down a hill", "a person in the snow"]
    people = ReferenceAgreement([cat, skier, ["a red bus"], ["two cups of tea"]])
    right = people.agreement(["a cat", "a woman standing", "a red bus", "tea"])
    assert (right >= RIGHT_FROM).all() and right[2] == pytest.approx(1)
    false = people.agreement(["a dog on a sofa", "a dog on a slope", "a dog", "a a a"])
    assert (false < RIGHT_FROM).all() and false[0] > 0
    assert people.used(0, "sofa") and not people.used(0, "bus") and not people.used(0, "...")


def test_unfamiliar_images_are_of_every_kind_and_the_same_again() -> None:
    images, again = out_of_distribution_images(2 * len(KINDS)), out_of_distribution_images(2 * len(KINDS))
    assert [kind for kind, _ in images] == [*KINDS] * 2
    assert all(a.tobytes() == b.tobytes() and a.mode == "RGB" for (_, a), (_, b) in zip(images, again, strict=True))
    assert len({image.tobytes() for _, image in images}) == len(images)
    assert out_of_distribution_images(1, seed=1)[0][1].tobytes() != images[0][1].tobytes()


@pytest.fixture(scope="module")
def captioner() -> captionkit.Captioner:
    return captionkit.load("bundled")


@pytest.fixture(scope="module")
def unfitted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundled model as a folder that nobody has calibrated."""
    to = tmp_path_factory.mktemp("models") / "unfitted"
    update_model(open_model("bundled"), {}, {"confidence": None, "calibration": None}, to=to)
    return to


def test_captions_of_the_bundled_model_are_judged(captioner: captionkit.Captioner) -> None:
    best = captioner.caption(EXAMPLES / "cat.jpg", num_captions=2)
    mean = np.mean([word.confidence for word in best.words])
    assert captioner.sure_from == 0.5 and 0 < best.confidence < 1 and best.confidence != pytest.approx(mean)
    alone = captioner.caption(EXAMPLES / "cat.jpg", num_captions=1, num_beams=3)
    assert best.text != alone.text or best.confidence == pytest.approx(alone.confidence, abs=1e-5)
    beside = captioner.caption([EXAMPLES / "camera.jpg", EXAMPLES / "cat.jpg"])[1]  # in a batch with another
    assert beside.text != alone.text or beside.confidence == pytest.approx(alone.confidence, abs=0.05)


def test_a_folder_without_a_fit_claims_nothing(unfitted: Path) -> None:
    old = captionkit.load(unfitted)
    found = old.caption(EXAMPLES / "cat.jpg")
    assert old.sure_from is None and found.review is None
    assert found.confidence == pytest.approx(np.mean([np.exp(word.log_prob) for word in found.words]), abs=1e-5)


def test_a_fit_for_another_encoder_is_refused(unfitted: Path) -> None:
    other = update_model(
        open_model(unfitted),
        {},
        {"confidence": CaptionConfidence(0, {}, [1.0]).to_dict()},
        to=unfitted.with_name("other"),
    )
    with pytest.raises(ModelError, match=r"other: confidence was fitted on 1 means .* `captionkit calibrate`"):
        captionkit.load(other.path).caption(EXAMPLES / "cat.jpg")


@pytest.mark.slow
def test_unfamiliar_images_get_a_low_confidence(captioner: captionkit.Captioner, shared: Path) -> None:
    """Their median lies below the fifth of photos with the lowest confidence; the seed is not the one of the fit."""
    everyday = captioned_split(shared / "data" / "everyday", "val")
    photos = [found.caption.confidence for found in captioner.stream([e.image for e in everyday[:60]]) if found.caption]
    strange = captioner.stream([image for _, image in out_of_distribution_images(3 * len(KINDS), seed=5)])
    assert np.median([found.caption.confidence for found in strange if found.caption]) < np.quantile(photos, 0.2)


@pytest.mark.slow
def test_fitting_finds_what_is_right(unfitted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Captions of one kind of image are right, those of another false: the fit must tell them apart."""
    monkeypatch.setattr("captionkit.eval.fit_confidence._OF_A_KIND", 2)
    model = captionkit.load(unfitted)
    sets = [_made(model, seed) for seed in (1, 2)]
    fitted = fit_confidence(model, sets, resamples=50)
    assert [share.images for share in fitted.shares] == [52, 52]
    for share in fitted.shares:
        assert share.right == pytest.approx(0.5) and share.low <= share.auc <= share.high
        assert share.auc > 0.95 > share.before and share.apart is not None and share.apart > 0.9
        assert share.error < 0.2
    assert set(fitted.unfamiliar) == set(KINDS) and fitted.calibration.words > 500
    model.folder = replace(model.folder, config={**model.folder.config, **fitted.tables()})
    again = [found.caption.confidence for found in model.stream([example.image for example in sets[0]])]
    assert np.mean(again[::2]) > 0.7 > 0.3 > np.mean(again[1::2])
    with pytest.raises(CaptionkitError, match="10 of 20 captions are right"):
        fit_confidence(model, [sets[0][:20]], resamples=0)


def _made(model: captionkit.Captioner, seed: int) -> CaptionSet:
    """Noise, of which people say what the model says, and plain frames, of which they say other things."""
    generator = np.random.default_rng(seed)
    images = []
    for place in range(52):
        plain = np.full((48, 48, 3), generator.integers(90, 160, 3))
        values = plain if place % 2 else generator.integers(0, 255, (48, 48, 3))
        data = io.BytesIO()
        Image.fromarray(values.astype(np.uint8)).save(data, "PNG")
        images.append(data.getvalue())
    said = model.caption(images)
    captions = [(found.text,) if place % 2 == 0 else ("zebras graze",) for place, found in enumerate(said)]
    examples = (Example(n, image, wrote) for n, (image, wrote) in enumerate(zip(images, captions, strict=True)))
    return CaptionSet("made", "val", tuple(examples))


@pytest.mark.slow
def test_calibrate_writes_what_it_reports(
    unfitted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr("captionkit.eval.fit_confidence._OF_A_KIND", 1)
    path = update_model(open_model(unfitted), {}, to=tmp_path / "model").path
    made, data = _made(captionkit.load(path), 3), tmp_path / "data"
    data.mkdir()
    for example in made:
        (data / f"{example.id}.png").write_bytes(example.image)
    rows = [{"id": example.id, "file_name": f"{example.id}.png"} for example in made]
    notes = [{"id": n, "image_id": n, "caption": example.captions[0]} for n, example in enumerate(made)]
    (data / "captions_val.json").write_text(json.dumps({"images": rows, "annotations": notes}))
    given = ["calibrate", str(path), str(data), "--resamples", "20"]
    assert main(given) == 0 and "fitted apart" in capsys.readouterr().out
    assert "confidence" not in open_model(path).config  # without --write, nothing is
    assert main([*given, "--write", "--json"]) == 0
    decoding_features = json.loads(capsys.readouterr().out)
    kept = open_model(path).confidence
    assert kept is not None and kept.report == decoding_features and kept.sure_from == 0.5
    assert decoding_features["captions"][0]["images"] == 52 and decoding_features["captions"][0]["apart"] is None
    assert captionkit.load(path).sure_from == 0.5


def test_the_bundled_model_is_not_written_to(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    Image.new("RGB", (32, 32), "teal").save(tmp_path / "plain.png")
    image, caption = {"id": 1, "file_name": "plain.png"}, {"image_id": 1, "caption": "a teal square"}
    (tmp_path / "captions_val.json").write_text(json.dumps({"images": [image], "annotations": [caption]}))
    assert main(["calibrate", "bundled", str(tmp_path), "--write"]) == 1
    assert "use a copy of its folder" in capsys.readouterr().err


@pytest.mark.parametrize("wanted", [-0.1, 1.5, float("nan"), True, "high"])
def test_a_confidence_that_cannot_be_asked_for(captioner: captionkit.Captioner, wanted: object) -> None:
    with pytest.raises(CaptionkitError, match=r"min_confidence is .*; use a number from 0 to 1"):
        captioner.caption(EXAMPLES / "cat.jpg", min_confidence=wanted)


def test_captions_below_it_are_for_review(captioner: captionkit.Captioner) -> None:
    outcome = next(captioner.stream([EXAMPLES / "cat.jpg"], num_captions=2))
    assert outcome.caption is not None
    best, other = outcome.captions
    assert "review" not in outcome.to_dict("cat.jpg") and outcome.reviewed(None) is outcome
    asked = outcome.reviewed((best.confidence + other.confidence) / 2)
    marks = [one.review for one in asked.captions]
    assert marks == [best.confidence < other.confidence, best.confidence > other.confidence]
    record = asked.to_dict("cat.jpg")
    assert record["review"] is marks[0] and [one["review"] for one in record["captions"]] == marks
    assert Outcome("x.jpg", None, "x.jpg: is empty").reviewed(0.5).to_dict("x.jpg") == {
        "path": "x.jpg",
        "error": "x.jpg: is empty",
    }
    found = captioner.caption([EXAMPLES / "cat.jpg"], min_confidence=1.0)[0]
    assert found.review is True and captioner.caption(EXAMPLES / "cat.jpg", min_confidence=0).review is False


def test_the_mark_in_print_and_in_files(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    cat, camera, broken = str(EXAMPLES / "cat.jpg"), str(EXAMPLES / "camera.jpg"), tmp_path / "broken.jpg"
    broken.write_bytes(b"no image")
    assert main(["caption", cat, "--min-confidence", "1"]) == 0
    text = capsys.readouterr().out.rstrip("\n").split("\t")
    assert len(text) == 2 and text[1] == "review"
    assert main(["caption", cat, camera, "--min-confidence", "0"]) == 0
    assert all(line.count("\t") == 1 for line in capsys.readouterr().out.splitlines())
    results = {kind: tmp_path / f"out.{kind}" for kind in ("json", "jsonl", "csv")}
    for file in results.values():
        given = ["caption", cat, str(broken), "--min-confidence", "1", "--output", str(file), "--json"]
        assert main(given) == 1
    printed = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert printed[0]["review"] is True and "review" not in printed[1]
    assert json.loads(results["json"].read_text()) == [{"image_id": "cat", "caption": text[0], "review": True}]
    assert json.loads(results["jsonl"].read_text().splitlines()[0])["review"] is True
    rows = [line.split(",") for line in results["csv"].read_text().splitlines()]
    assert [row[-1] for row in rows] == ["review", "true", ""]
    for file in results.values():  # what has marks is captionkit's own still, and written over
        assert main(["caption", camera, "--output", str(file)]) == 0
        assert "review" not in file.read_text()
    capsys.readouterr()
    wrong = tmp_path / "none.csv"
    assert main(["caption", cat, "--min-confidence", "2", "--output", str(wrong)]) == 1 and not wrong.exists()
    assert "use a number from 0 to 1" in capsys.readouterr().err


def test_without_it_files_are_as_they_were(tmp_path: Path) -> None:
    usual = {"model": None, "as_json": False, "attention": None, "batch_size": 16, "decoding": {}}
    assert caption_inputs([str(EXAMPLES / "cat.jpg")], output=tmp_path / "out.csv", **usual) == 0
    assert (tmp_path / "out.csv").read_text().startswith("path,rank,caption,log_prob,confidence,error\n")


def test_pages_say_not_sure() -> None:
    sure, unsure = (captions_page("x", [Card(caption="a dog", confidence=0.68, unsure=one)]) for one in (False, True))
    assert "68% confident" in sure and "not sure" not in sure
    assert "not sure" in unsure and "confident<" not in unsure
