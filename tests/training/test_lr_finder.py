"""`captionkit find-lr`: on a problem whose best rate is known, and on a tiny model."""

from __future__ import annotations

import json
import math
import shlex
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="the extra `train` is not installed")
pytest.importorskip("accelerate", reason="the extra `train` is not installed")

from PIL import Image

from captionkit.cli import main as cli
from captionkit.errors import TrainingError
from captionkit.training.tools.lr_finder import HIGHEST, LOWEST, find_rates, has_diverged, rate_at, read_off
from shapes import make_recipe


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CAPTIONKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


def descent(curvature: float, steps: int) -> tuple[list[float], list[float], bool]:
    """A range test of noisy descent on 1 + curvature * x^2 / 2, which diverges from a rate of 2 / curvature on."""
    generator, tried, losses = np.random.default_rng(0), [], []
    x = math.sqrt(2 / curvature)
    for step in range(steps):
        tried.append(rate_at(step, steps))
        losses.append(1 + curvature * x * x / 2)
        x -= tried[-1] * (curvature * x + math.sqrt(curvature) * generator.normal(0, 0.3))
        if has_diverged(losses):
            return tried, losses, True
    return tried, losses, False


def test_rates_rise_by_the_same_factor_each_step() -> None:
    rates = [rate_at(step, 8) for step in range(8)]
    assert rates[0] == LOWEST and rates[-1] == pytest.approx(HIGHEST)
    assert np.diff(np.log10(rates)) == pytest.approx([1.0] * 7)


@pytest.mark.parametrize("curvature", [2.0, 20.0, 200.0])
def test_on_a_parabola_the_suggestion_is_well_below_where_it_breaks(curvature: float) -> None:
    tried, losses, diverged = descent(curvature, 200)
    found = read_off("decoder", tried, losses, diverged=diverged)
    edge = 2 / curvature
    assert diverged and tried[-1] < 3 * edge
    assert found.lowest == pytest.approx(10 * found.suggested, rel=0.1) and found.steepest < found.lowest
    assert edge / 100 < found.suggested < edge / 10
    assert len(found.rates) == len(found.losses) == len(found.smoothed) == len(tried)


def test_noise_is_no_divergence_and_a_rise_is() -> None:
    generator = np.random.default_rng(0)
    noisy = list(8 - np.linspace(0, 4, 100) + generator.normal(0, 0.5, 100))
    assert not any(has_diverged(noisy[:count]) for count in range(1, 101))
    assert not has_diverged([5.0, 9.0, 9.0])  # too early to tell
    assert has_diverged([*noisy, *[12.0] * 20])


def test_a_loss_that_never_falls_is_refused() -> None:
    tried = [rate_at(step, 60) for step in range(60)]
    with pytest.raises(TrainingError, match=r"falls at no rate of the decoder's between 1e-06 and 10"):
        read_off("decoder", tried, list(np.linspace(5, 8, 60)), diverged=True)
    with pytest.raises(TrainingError, match="falls at no rate"):
        read_off("decoder", [], [], diverged=True)


@pytest.mark.slow
def test_the_command_writes_plot_and_points_and_prints_what_to_type(
    data: Path, backbone: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = make_recipe(backbone, {"trainer.seed": 3}).to_flags()
    command = ["find-lr", str(data), "--steps", "120", *flags]
    assert cli.main(command) == 0
    out, said = capsys.readouterr()
    assert said.startswith("captionkit: decoder: the loss falls fastest at") and "learning-rate.png" in said
    typed = shlex.split(out)
    assert typed[:5] == ["captionkit", "train", str(data), "--output", "RUN"]
    rate = float(typed[typed.index("--optimizer.lr-decoder") + 1])
    assert 1e-3 <= rate <= 0.1  # a tiny network learns at about 1e-2
    assert cli._parser(typed[1:]).parse_args(typed[1:]).command

    with Image.open(tmp_path / "learning-rate.png") as image:
        assert image.format == "PNG" and image.width > 800
    points = json.loads((tmp_path / "learning-rate.json").read_text())
    (test,) = points["tests"]
    assert test["part"] == "decoder" and test["suggested"] == rate
    assert test["rates"] == sorted(test["rates"]) and len(test["rates"]) == len(test["losses"]) <= 120
    assert test["losses"][0] == pytest.approx(math.log(17), abs=0.3)  # of 17 words, nothing known
    assert min(test["smoothed"]) < test["losses"][0] - 0.5
    assert {path.name for path in tmp_path.iterdir()} == {"cache", "learning-rate.png", "learning-rate.json"}

    assert cli.main(command) == 1  # nothing is overwritten
    assert "learning-rate.png: is there already; move it away, or give another --output\n" in capsys.readouterr().err


@pytest.mark.slow
def test_a_trained_encoder_is_tested_too_with_the_decoders_rate(data: Path, backbone: Path, tmp_path: Path) -> None:
    recipe = make_recipe(backbone, {"encoder.train": "all"})
    tests, suggested = find_rates(data, tmp_path / "out.png", recipe, steps=60)
    assert [test.part for test in tests] == ["decoder", "encoder"]
    assert suggested.optimizer.lr_decoder == tests[0].suggested
    assert suggested.optimizer.lr_encoder == tests[1].suggested
    # the decoder learns throughout the second test, and not before the rate lets it in the first
    assert min(tests[1].losses[:30]) < min(tests[0].losses[:30]) - 0.1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--output", "out.pdf"], "out.pdf: the plot is a PNG; end the name in .png"),
        (["--steps", "10"], "--steps 10: too few to tell anything; give 40 or more"),
        (["--optimizer.lr-decoder", "fast"], "optimizer.lr_decoder = 'fast'"),
    ],
)
def test_mistakes_are_one_line(
    arguments: list[str], message: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["find-lr", str(data), *arguments]) == 1
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1 and not list(tmp_path.iterdir())


def test_the_files_of_others_are_not_touched(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine.json").write_text("mine")
    assert cli.main(["find-lr", str(data), "--output", "mine.png"]) == 1
    assert "mine.json: is there already" in capsys.readouterr().err and (tmp_path / "mine.json").read_text() == "mine"
