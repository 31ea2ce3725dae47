"""Training is quiet from Python unless its log is asked for."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="the extra `train` is not installed")
pytest.importorskip("accelerate", reason="the extra `train` is not installed")

from captionkit.training.trainer import train
from captionkit.utils.console import log_to_console
from shapes import make_recipe

pytestmark = pytest.mark.usefixtures("alone")


def test_training_prints_only_what_is_asked_for(
    data: Path, backbone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    logger = logging.getLogger("captionkit")
    monkeypatch.setattr(logger, "handlers", [])  # as in a program that has set up no logging
    usual = logger.level
    recipe = make_recipe(backbone, {"trainer.epochs": 1})
    try:
        logger.setLevel(logging.NOTSET)
        train(data, tmp_path / "quiet", recipe)
        assert capfd.readouterr() == ("", "")
        with log_to_console():
            train(data, tmp_path / "logged", recipe)
        assert logger.level == logging.NOTSET and not logger.handlers
    finally:
        logger.setLevel(usual)
    out, err = capfd.readouterr()
    assert not out and "12 training and 3 validation images" in err and "all epochs done" in err
