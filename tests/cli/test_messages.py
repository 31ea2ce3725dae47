"""What the library logs: nothing is printed by itself, and the command line prints it."""

from __future__ import annotations

import logging
import subprocess
import sys

import pytest

from captionkit.cli import main as cli
from captionkit.utils.console import log_to_console

LOGGED = """
import logging, sys
import captionkit
from captionkit.utils.progress import progress_bar
sys.stderr.isatty = lambda: True
logging.getLogger("captionkit.eval").warning("an image failed")
print(sum(progress_bar([1, 2], 2, "adding")))
"""


def test_the_library_is_quiet() -> None:
    done = subprocess.run([sys.executable, "-c", LOGGED], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("3\n", "")


def test_the_command_line_prints_what_is_logged(capsys: pytest.CaptureFixture[str]) -> None:
    log = logging.getLogger("captionkit.data")
    with log_to_console():
        log.warning("%s: damaged", "a.jpg")
        log.info("epoch 1")
        log.debug("a detail")
    assert capsys.readouterr().err == "captionkit: a.jpg: damaged\nepoch 1\n"
    with log_to_console(verbose=True):
        log.debug("a detail")
    log.debug("another")
    assert capsys.readouterr().err == "a detail\n"


def test_verbose_tells_the_layout_that_was_read(
    tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture[str]
) -> None:
    from PIL import Image

    data = tmp_path_factory.mktemp("data")
    Image.new("RGB", (8, 8)).save(data / "a.png")
    (data / "a.txt").write_text("a square\n")
    assert cli.main(["inspect", str(data)]) == 0
    assert capsys.readouterr().err == ""
    assert cli.main(["inspect", str(data), "-v"]) == 0
    assert f"{data}: layout folder" in capsys.readouterr().err
