"""SPICE: what Java is asked, what is made of its answer, and what is said of each thing that is missing.

The real program needs Stanford's models, so most tests put a stand-in for `java` on the PATH. It takes the arguments as
the program does, and scores by words. What the real program makes of the arguments is asked of it where Java is.
"""

from __future__ import annotations

import importlib
import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from captionkit.errors import CaptionkitError
from captionkit.metrics.spice import Spice, run_spice

CANDIDATES = [["a", "red", "dog"], ["café"], ["two", "cats"]]
REFERENCES = [[["a", "dog"], ["the", "red", "hound"]], [["café"]], [["snow"]]]
SCORES = [0.75, 1.0, 0.0]  # twice the shared words over all words, of the candidate and of all references

STAND_IN = f"""#!{sys.executable}
import json, os, sys
arguments = sys.argv[1:]
mode = os.environ["JAVA_MODE"]
if arguments == ["-version"]:
    sys.stderr.write(os.environ["JAVA_SAYS"])
    sys.exit(mode == "stub")
with open(os.environ["JAVA_LOG"], "a") as log:
    log.write(json.dumps(arguments) + "\\n")
options = [arguments.pop(0), arguments.pop(0)]
jar, given = arguments.pop(0), arguments.pop(0)
assert options == ["-Xmx8G", "-jar"] and os.path.exists(jar)
out = None
while arguments:  # as the program reads them
    option = arguments.pop(0)
    if option in ("-out", "-cache", "-threads"):
        value = arguments.pop(0)
        out = value if option == "-out" else out
    elif option not in ("-detailed", "-noSynsets", "-subset", "-silent"):
        sys.exit(f'Unknown option "{{option}}"')
if mode == "crash":
    sys.stderr.write("Parsing reference captions\\n" + os.environ["JAVA_SAYS"])
    sys.exit(1)
results = []
for item in json.loads(open(given, "rb").read().decode("ascii")):
    candidate, references = set(item["test"].split()), set(" ".join(item["refs"]).split())
    f = 2 * len(candidate & references) / (len(candidate) + len(references))
    f = None if mode == "null" and item["image_id"] == 1 else f
    scores = dict(pr=0.5, re=0.5, f=f, fn=1, numImages=1, fp=1, tp=1)
    results.append(dict(scores={{"All": scores}}, image_id=item["image_id"]))
if mode == "short":
    results.pop()
if mode != "silent":
    json.dump(results[::-1], open(out, "w"), indent=2)
print("SPICE evaluation took: 1.0 s")
"""

needs_posix = pytest.mark.skipif(os.name == "nt", reason="the stand-in for java is a script with a shebang")


def answer(version: str) -> str:
    return f'Picked up JAVA_TOOL_OPTIONS: -Xss1m\nopenjdk version "{version}" 2020-01-01\nOpenJDK Server VM\n'


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The SPICE folder of a pycocoevalcap that has all its files, which is the one that Python finds."""
    folder = tmp_path / "site" / "pycocoevalcap" / "spice"
    (folder / "lib").mkdir(parents=True)
    for file in (folder.parent / "__init__.py", folder / "__init__.py", folder / "spice-1.0.jar"):
        file.touch()
    for name in ("stanford-corenlp-3.6.0.jar", "stanford-corenlp-3.6.0-models.jar"):
        (folder / "lib" / name).touch()
    for name in [name for name in sys.modules if name.partition(".")[0] == "pycocoevalcap"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(tmp_path / "site")
    yield folder
    sys.modules.pop("pycocoevalcap", None)  # the stand-in, which looking for its parts imports
    importlib.invalidate_caches()


@pytest.fixture
def java(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A `java` that is version 11 by what it says, alone on the PATH."""
    path = tmp_path / "bin" / "java"
    path.parent.mkdir()
    path.write_text(STAND_IN)
    path.chmod(0o755)
    monkeypatch.setenv("PATH", str(path.parent))
    monkeypatch.setenv("JAVA_MODE", "fine")
    monkeypatch.setenv("JAVA_LOG", str(tmp_path / "java.log"))
    monkeypatch.setenv("JAVA_SAYS", answer("11.0.20"))
    return path


def message(action) -> str:
    with pytest.raises(CaptionkitError) as caught:
        action()
    said = str(caught.value)
    assert said.startswith("SPICE: ") and "\n" not in said and len(said) < 500
    return said


def scored() -> Spice:
    metric = Spice()
    metric.update(CANDIDATES[:1], REFERENCES[:1])
    metric.update(CANDIDATES[1:], REFERENCES[1:])
    return metric


@needs_posix
def test_scores(package: Path, java: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    before = sorted(package.rglob("*"))
    result = scored().compute()
    assert result.names == ("SPICE",)
    np.testing.assert_allclose(result.per_image, np.array(SCORES)[:, None])
    assert result.values == {"SPICE": pytest.approx(np.mean(SCORES))}
    (asked,) = map(json.loads, (tmp_path / "java.log").read_text().splitlines())
    assert "-cache" not in asked and "-silent" in asked
    assert sorted(package.rglob("*")) == before and not list(temporary.iterdir())


@needs_posix
def test_updates_go_on_after_scores(package: Path, java: Path) -> None:
    metric = Spice()
    assert metric.compute().per_image.shape == (0, 1)
    assert not Path(os.environ["JAVA_LOG"]).exists()  # nothing to score, nothing run
    for n in range(3):
        metric.update(CANDIDATES[n : n + 1], REFERENCES[n : n + 1])
        np.testing.assert_allclose(metric.compute().per_image[:, 0], SCORES[: n + 1])


@needs_posix
def test_null_is_nan_as_in_pycocoevalcap(package: Path, java: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAVA_MODE", "null")
    result = scored().compute()
    np.testing.assert_array_equal(result.per_image[:, 0], [SCORES[0], math.nan, SCORES[2]])
    assert math.isnan(result.values["SPICE"])


@needs_posix
def test_a_bad_update_leaves_nothing(package: Path, java: Path) -> None:
    metric = Spice()
    metric.update(CANDIDATES[:1], REFERENCES[:1])
    for references in ([REFERENCES[1], []], REFERENCES[1:2]):
        with pytest.raises(ValueError):
            metric.update(CANDIDATES[1:], references)
    np.testing.assert_allclose(metric.compute().per_image[:, 0], SCORES[:1])


@needs_posix
def test_no_pycocoevalcap(java: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pycocoevalcap", None)
    monkeypatch.delitem(sys.modules, "pycocoevalcap.spice", raising=False)
    assert "pip install 'captionkit[meteor]'" in message(Spice)


@needs_posix
def test_a_pycocoevalcap_without_spice(package: Path, java: Path) -> None:
    (package / "spice-1.0.jar").unlink()
    assert "pip install 'captionkit[meteor]'" in message(Spice)
    shutil.rmtree(package)
    importlib.invalidate_caches()
    assert "pip install 'captionkit[meteor]'" in message(Spice)


@needs_posix
def test_no_models(package: Path, java: Path) -> None:
    whole, models = (package / "lib" / f"stanford-corenlp-3.6.0{end}.jar" for end in ("", "-models"))
    models.unlink()
    said = message(Spice)
    assert models.name in said and f"delete {whole.name}" in said
    whole.unlink()
    said = message(Spice)
    assert f"{whole.parent} has no {whole.name}" in said and "delete" not in said
    assert said.endswith("fetch it with `python -m pycocoevalcap.spice.get_stanford_models`")


def test_the_command_that_fetches_models() -> None:
    spec = find_spec("pycocoevalcap.spice.get_stanford_models") if find_spec("pycocoevalcap") else None
    if spec is None:
        pytest.skip("pycocoevalcap is not installed")
    source = Path(spec.origin).read_text()
    assert 'if __name__ == "__main__":' in source.replace("'", '"')
    assert "stanford-corenlp-3.6.0" in source and "-models.jar" in source and "SPICELIB = 'lib'" in source


def test_no_java(package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    said = message(Spice)
    assert "no java on the PATH" in said and "openjdk=11" in said


@needs_posix
def test_java_that_cannot_start(package: Path, java: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAVA_MODE", "stub")  # as macOS has it
    monkeypatch.setenv("JAVA_SAYS", "The operation couldn’t be completed. Unable to locate a Java Runtime.\n\n")
    assert "Unable to locate a Java Runtime." in message(Spice)
    java.write_text("#!/nowhere/to/be/found\n")
    said = message(Spice)
    assert str(java) in said and "No such file" in said


@needs_posix
@pytest.mark.parametrize(
    ("version", "major"), [("1.7.0_80", "7"), ("15.0.2", "15"), ("17.0.15", "17"), ("21", "21"), ("22-ea", "22")]
)
def test_other_versions_are_refused_before_the_work(
    package: Path, java: Path, monkeypatch: pytest.MonkeyPatch, version: str, major: str
) -> None:
    monkeypatch.setenv("JAVA_SAYS", answer(version))
    said = message(Spice)
    assert "Java 8 to 14" in said and f"is Java {major};" in said and "install Java 11" in said


@needs_posix
@pytest.mark.parametrize("version", ["1.8.0_312", "9", "11.0.20", "14.0.2"])
def test_versions_that_work(package: Path, java: Path, monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    monkeypatch.setenv("JAVA_SAYS", answer(version))
    assert scored().compute().values["SPICE"] == pytest.approx(np.mean(SCORES))


TRACE = """Exception in thread "main" java.lang.ExceptionInInitializerError
\tat edu.anu.spice.SpiceScorer.main(SpiceScorer.java:60)
Caused by: java.lang.IllegalStateException: the root of it
\tat edu.anu.spice.Annotator.initPipeline(Annotator.java:40)
\t... 3 more
"""
NO_MEMORY = """Error occurred during initialization of VM
Could not reserve enough space for 8388608KB object heap
Error: Could not create the Java Virtual Machine.
Error: A fatal exception has occurred. Program will exit.
"""


@needs_posix
@pytest.mark.parametrize(
    ("stderr", "reason"),
    [
        (TRACE, "Caused by: java.lang.IllegalStateException: the root of it"),
        (NO_MEMORY, "Could not reserve enough space for 8388608KB object heap"),
        ("", "Parsing reference captions"),
        ("x" * 1000, "x" * 300),
    ],
)
def test_java_that_fails(package: Path, java: Path, monkeypatch: pytest.MonkeyPatch, stderr: str, reason: str) -> None:
    metric = scored()
    monkeypatch.setenv("JAVA_MODE", "crash")
    monkeypatch.setenv("JAVA_SAYS", stderr)
    assert f"Java failed ({reason})" in message(metric.compute)


@needs_posix
@pytest.mark.parametrize("mode", ["silent", "short"])
def test_java_that_ends_without_scores(package: Path, java: Path, monkeypatch: pytest.MonkeyPatch, mode: str) -> None:
    metric = scored()
    monkeypatch.setenv("JAVA_MODE", mode)
    assert "ended without the scores of all captions" in message(metric.compute)


@needs_posix
def test_no_room_for_the_captions(package: Path, java: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    metric = scored()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "absent"))
    assert f"check the disk of {tmp_path / 'absent'}" in message(metric.compute)


def real() -> tuple[str, Path]:
    """Java and the program itself; skips the test where they are not."""
    java, spec = shutil.which("java"), find_spec("pycocoevalcap") and find_spec("pycocoevalcap.spice")
    if not java or not spec:
        pytest.skip("no java on the PATH" if not java else "pycocoevalcap is not installed")
    return java, Path(spec.submodule_search_locations[0], "spice-1.0.jar")


def test_the_program_takes_the_arguments(tmp_path: Path) -> None:
    java, jar = real()
    alone = tmp_path / jar.name  # without the models it ends where it would start to parse
    (tmp_path / "lib").mkdir()
    for file in [jar, *(jar.parent / "lib").glob("*.jar")]:
        if not file.name.startswith("stanford"):
            shutil.copy(file, tmp_path / file.relative_to(jar.parent))
    items = [{"image_id": 0, "test": "a dog", "refs": ["a dog"]}]
    said = message(lambda: run_spice(java, alone, items))
    assert "edu.stanford.nlp.semgraph" in said
    wrong = subprocess.run([java, "-jar", str(jar), "in.json", "-quiet"], capture_output=True, text=True)
    assert wrong.returncode == 1 and 'Unknown option "-quiet"' in wrong.stderr  # so others would have been refused


@pytest.mark.slow
def test_equals_pycocoevalcap() -> None:
    real()
    try:
        metric = Spice()
    except CaptionkitError as error:
        pytest.skip(str(error))
    from pycocoevalcap.spice.spice import Spice as Theirs

    captions = {
        "a brown dog runs on the green grass": ["a dog running through grass", "the brown dog plays"],
        "two men": ["a woman in a red coat rides a bicycle", "someone on a bike"],
        "and of the": ["a cat"],
        "a cat": ["and of the"],
    }
    metric.update([text.split() for text in captions], [[r.split() for r in refs] for refs in captions.values()])
    result = metric.compute()
    corpus, each = Theirs().compute_score(dict(enumerate(captions.values())), {n: [c] for n, c in enumerate(captions)})
    assert result.values["SPICE"] == pytest.approx(corpus)
    assert result.per_image[:, 0].tolist() == pytest.approx([scores["All"]["f"] for scores in each])
    assert 0 < corpus < 1
