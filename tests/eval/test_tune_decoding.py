"""`captionkit tune`: every combination is tried as captioning would do it, and the best is kept."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

import captionkit
from captionkit.cli.main import main
from captionkit.data.layouts import open_dataset
from captionkit.eval import tune_decoding
from captionkit.eval.tune_decoding import Trial, tune_model
from captionkit.inference.model_folder import open_model
from captionkit.inference.search import Decoding
from real_photos import make_photos


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six real photographs, captioned."""
    pytest.importorskip("skimage", reason="the extra `demo` is not installed")
    return make_photos(tmp_path_factory.mktemp("real") / "photos")


def run(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


def test_a_trial_scores_what_captioning_says(real: Path) -> None:
    found = tune_model("bundled", real, num_beams=(1, 4), length_penalties=(0.0, 1.5), no_repeat_ngram_sizes=(0,))
    images = open_dataset(real)["val"]
    tried = [(t.decoding.num_beams, t.decoding.length_penalty, t.decoding.no_repeat_ngram_size) for t in found.trials]
    assert tried == [(1, 0.0, 0), (1, 1.5, 0), (4, 0.0, 0), (4, 1.5, 0)]
    model = captionkit.load()
    for trial in found.trials:
        chosen = {
            "num_beams": trial.decoding.num_beams,
            "length_penalty": trial.decoding.length_penalty,
            "no_repeat_ngram_size": 0,
        }
        said = {e.id: model.caption(e.image, **chosen).text for e in images}
        scores = captionkit.evaluate(said, images, ["bleu", "rouge", "cider"], resamples=0)
        assert {name: scores[name] for name in tune_decoding.TOLD} == pytest.approx(trial.scores)
        assert trial.words == pytest.approx(sum(len(text.split()) for text in said.values()) / len(said))
    assert found.best.scores["CIDEr-D"] == max(trial.scores["CIDEr-D"] for trial in found.trials)
    assert "*" in str(found) and str(found).count("\n") == 4


def test_of_equals_the_narrower_beam_is_chosen(real: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def equal(captioner, images, tried: list[Decoding]) -> list[Trial]:
        return [Trial(decoding, dict.fromkeys(tune_decoding.TOLD, 0.5), 9.0) for decoding in tried]

    monkeypatch.setattr(tune_decoding, "_trials", equal)
    found = tune_model("bundled", real, num_beams=(5, 3, 4), length_penalties=(0.7,))
    assert found.best.decoding.num_beams == 3


def test_the_horizon_is_the_models_own_unless_others_are_tried(real: Path) -> None:
    tried = {"num_beams": (2,), "length_penalties": (0.7,)}
    own = captionkit.load().decoding.early_stop_horizon
    assert [trial.decoding.early_stop_horizon for trial in tune_model("bundled", real, **tried).trials] == [own]
    found = tune_model("bundled", real, **tried, early_stop_horizons=(2, 0))
    assert [trial.decoding.early_stop_horizon for trial in found.trials] == [2, 0]
    assert [trial["early_stop_horizon"] for trial in found.to_dict()["trials"]] == [2, 0] and "horizon" in str(found)


def test_what_is_written_is_what_the_model_captions_with(
    model_folder: Path, real: Path, tmp_path: Path, capsys
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(model_folder, folder)
    before = open_model(folder)
    assert (
        run(
            "tune",
            folder,
            real,
            "--num-beams",
            "2,3",
            "--length-penalty",
            "1",
            "--no-repeat-ngram-size",
            "0,2",
            "--json",
        )
        == 0
    )
    assert open_model(folder).decoding == before.decoding
    told = json.loads(capsys.readouterr().out)
    assert len(told["trials"]) == 4 and told["best"] in told["trials"]
    assert (
        run(
            "tune",
            folder,
            real,
            "--num-beams",
            "2,3",
            "--length-penalty",
            "1",
            "--no-repeat-ngram-size",
            "0,2",
            "--write",
        )
        == 0
    )
    after = open_model(folder)
    assert {name: getattr(after.decoding, name) for name in tune_decoding.TRIED} == {
        name: told["best"][name] for name in tune_decoding.TRIED
    }
    assert after.decoding.max_length == before.decoding.max_length
    assert after.config["tuning"] == told
    after.verify()


def test_a_picture_that_cannot_be_read_is_named_and_left_out(real: Path, tmp_path: Path, capsys) -> None:
    copy = tmp_path / "photos"
    shutil.copytree(real, copy)
    victim = next(iter(open_dataset(copy)["val"])).image
    victim.write_bytes(b"no picture")
    assert run("tune", "bundled", copy, "--num-beams", 1, "--length-penalty", 1) == 0
    captured = capsys.readouterr()
    assert victim.name in captured.err and "*" in captured.out
    for example in open_dataset(copy)["val"]:
        example.image.write_bytes(b"no picture")
    assert run("tune", "bundled", copy, "--num-beams", 1) == 1
    assert "could be read" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("--num-beams", "0"), "num_beams is 0"),
        (("--num-beams", ""), "nothing to try"),
        (("--length-penalty", "-1"), "length_penalty is -1"),
        (("--split", "tset"), "tset"),
        (("--write",), "use a copy of its folder"),
    ],
)
def test_wrong_wishes_are_told_in_a_line(arguments: tuple[str, ...], reason: str, real: Path, capsys) -> None:
    assert run("tune", "bundled", real, *arguments) == 1
    error = capsys.readouterr().err
    assert reason in error and error.count("\n") == 1


def test_numbers_that_are_none_are_wrong_usage(real: Path, capsys) -> None:
    with pytest.raises(SystemExit) as stopped:
        run("tune", "bundled", real, "--num-beams", "three")
    assert stopped.value.code == 2 and "--num-beams" in capsys.readouterr().err
