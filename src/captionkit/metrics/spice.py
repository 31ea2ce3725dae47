"""SPICE (Anderson et al. 2016, arXiv 1607.08822): overlap of captions in objects, attributes and relations.

It depends on Stanford's parser, so the authors' Java program is run from pycocoevalcap. An image's score is the F-score
over the tuples of its scene graphs, the corpus score their mean. The program gives 0, not NaN, for a candidate or
references without any tuples.
"""

from __future__ import annotations

import json
import math
import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from captionkit.errors import CaptionkitError
from captionkit.metrics.metric import CaptionCollector, MetricResult, mean_result

_JAR = "spice-1.0.jar"
_MODELS = ("stanford-corenlp-3.6.0.jar", "stanford-corenlp-3.6.0-models.jar")
_FETCH = "python -m pycocoevalcap.spice.get_stanford_models"
# The classes are compiled for Java 8. The program writes its scores through the JavaScript engine removed in Java 15
# (JEP 372), after hours of parsing, so later versions are refused at the start.
_OLDEST, _NEWEST = 8, 14
_JAVA = "install Java 11 (`conda install openjdk=11`) and put it first on the PATH"
_NOT_CAUSES = ("at ", "... ", "Error: Could not create the Java", "Error: A fatal exception has occurred")


class Spice(CaptionCollector):
    """SPICE by the authors' program. Raises CaptionkitError, here or in `compute`, if it cannot be run.

    Its requirements are checked at once: pycocoevalcap, the Stanford models in it, and Java 8 to 14 on the PATH.
    """

    names: tuple[str, ...] = ("SPICE",)

    def __init__(self) -> None:
        super().__init__()
        self._jar = _find_jar()
        self._java = _find_java()

    def compute(self) -> MetricResult:
        """Score all images so far; takes minutes and up to 8 GB of memory."""
        pairs = zip(self.candidates, self.references, strict=True)
        items = [
            {"image_id": number, "test": " ".join(candidate), "refs": [" ".join(tokens) for tokens in references]}
            for number, (candidate, references) in enumerate(pairs)
        ]
        scores = run_spice(self._java, self._jar, items) if items else []
        return mean_result(self.names, np.array(scores, np.float64).reshape(-1, 1))


def run_spice(java: str, jar: Path, items: Sequence[dict[str, Any]]) -> list[float]:
    """Return the F-score of each of `items`: {"image_id" (its index), "test", "refs"}. Raises CaptionkitError.

    The program's cache of parses is not used: it is a database that Java 16 and later, and arm64, cannot open, and that
    concurrent processes wait for.
    """
    try:
        with tempfile.TemporaryDirectory(prefix="captionkit-spice-") as folder:
            given, scored = Path(folder, "captions.json"), Path(folder, "scores.json")
            given.write_text(json.dumps(items), encoding="ascii")  # Java would read it in the system's encoding
            command = [java, "-Xmx8G", "-jar", str(jar), str(given), "-out", str(scored), "-silent"]
            code, said = _call(command)
            if code:
                raise CaptionkitError(f"SPICE: Java failed ({_cause(said)}); it needs Java 8 to 14 and 8 GB of memory")
            return _read_scores(scored, len(items), said)
    except OSError as error:
        raise CaptionkitError(f"SPICE: cannot be run ({error}); check the disk of {tempfile.gettempdir()}") from None


def _read_scores(path: Path, count: int, said: str) -> list[float]:
    try:
        written = json.loads(path.read_bytes())
        by_image = {item["image_id"]: item["scores"]["All"]["f"] for item in written}
        # The program writes NaN as null.
        return [math.nan if by_image[n] is None else float(by_image[n]) for n in range(count)]
    except (OSError, ValueError, KeyError, TypeError):
        reason = f"Java ended without the scores of all captions ({_cause(said)})"
        raise CaptionkitError(f"SPICE: {reason}; reinstall pycocoevalcap") from None


def _find_jar() -> Path:
    try:
        spec = find_spec("pycocoevalcap.spice")
    except ModuleNotFoundError:  # the parent is missing
        spec = None
    folders = (spec and spec.submodule_search_locations) or [""]
    jar = Path(folders[0], _JAR)
    if not jar.is_file():
        raise CaptionkitError("SPICE: pycocoevalcap, which holds it, is not here; `pip install 'captionkit[meteor]'`")
    missing = [name for name in _MODELS if not (jar.parent / "lib" / name).is_file()]
    if missing:
        # The command does nothing if the first file exists, so an interrupted run must be undone first.
        undo = "" if _MODELS[0] in missing else f"delete {_MODELS[0]} there, then "
        raise CaptionkitError(f"SPICE: {jar.parent / 'lib'} has no {missing[0]}; {undo}fetch it with `{_FETCH}`")
    return jar


def _find_java() -> str:
    java = shutil.which("java")
    if java is None:
        raise CaptionkitError(f"SPICE: no java on the PATH; {_JAVA}")
    try:
        code, said = _call([java, "-version"])
    except OSError as error:
        raise CaptionkitError(f"SPICE: {java} cannot be run ({error.strerror}); {_JAVA}") from None
    if code:  # macOS has a stub java that only reports that Java is not installed
        raise CaptionkitError(f"SPICE: {java} does not work ({_cause(said)}); {_JAVA}")
    version = re.search(r'version "(?:1\.)?(\d+)', said)
    if version and not _OLDEST <= int(version[1]) <= _NEWEST:
        raise CaptionkitError(f"SPICE: runs on Java {_OLDEST} to {_NEWEST}, and {java} is Java {version[1]}; {_JAVA}")
    return java


def _call(command: list[str]) -> tuple[int, str]:
    """Run a program and return its exit status and its stderr."""
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace")
    return done.returncode, done.stderr


def _cause(said: str) -> str:
    """Return the last line of stderr that explains the failure, skipping stack frames."""
    lines = [line.strip() for line in said.splitlines()]
    telling = [line for line in lines if line and not line.startswith(_NOT_CAUSES)]
    return telling[-1][:300] if telling else "it said nothing"
