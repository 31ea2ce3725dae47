"""Every command of README and docs/ is run as printed, in a folder of small files, or named here with the reason."""

from __future__ import annotations

import base64
import csv
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from captionkit.cli import main as cli
from captionkit.inference.model_folder import open_model
from documents import PAGES, ROOT, Block, blocks, shell_commands, text_of
from serving import Server, started
from shapes import make_shapes

INSTALL = "installs; CI runs README's commands in fresh environments, and a test looks up the extras"
DOCKER = "builds and runs a container; CI of the container does so"
CLUSTER = "needs a cluster"
HOURS = "takes hours, on datasets that are not here"
HUB = "fetches a model from the Hub"
ENDLESS = "runs until it is stopped; the tests of its package start and stop it"
#: what is not run here: page (or * for all), beginning of the command, reason
NOT_RUN = [
    ("*", "pip install", INSTALL),
    ("*", "docker ", DOCKER),
    ("*", "captionkit serve", "a server of the tests answers what the page asks of it"),
    ("*", "captionkit watch", ENDLESS),
    ("*", "captionkit calibrate", "takes more images than are here; the tests of confidence fit it"),
    ("*", "python bench/", "measures for minutes, in a checkout; tests/bench runs parts of it, and CI the gate"),
    ("*", "torchrun ", "starts several processes, as tests of training do"),
    ("*", "accelerate launch", "needs GPUs"),
    ("docs/bulk.md", "ray ", CLUSTER),
    ("docs/bulk.md", "captionkit bulk photos/ captions/ --engine ray", CLUSTER),
    ("docs/bulk.md", "captionkit bulk merge", "wants shares of three machines; the tutorial's two are merged"),
    ("docs/bulk.md", "captionkit bulk photos/ share-1/ --shard 1/3", "belongs to the merge"),
    ("docs/coming-from-blip.md", "captionkit ", HUB + "; tests/export/test_import.py imports small ones"),
    ("docs/coming-from-transformers.md", "captionkit ", HUB),
    ("docs/distil-from-a-large-captioner.md", "captionkit bulk", HUB),
    ("docs/distil-from-a-large-captioner.md", "captionkit ", "goes on with what the large model said"),
    ("docs/distillation.md", "captionkit train", HOURS),
    ("docs/experiments.md", "captionkit ", HOURS),
    ("docs/export.md", "captionkit export run/best --images", "exports as the line before it; tests/export does so"),
    ("docs/export.md", "captionkit export run/best --half", "exports as the line before it; tests/export does so"),
    ("docs/export.md", "captionkit export MODEL --int8", "takes minutes; tests/export/test_int8.py does so"),
    ("docs/export.md", "captionkit caption photo.jpg --model small/", "captions with what the command before makes"),
    ("docs/import.md", "captionkit ", HUB + "; tests/export/test_import.py imports small ones"),
    ("docs/in-the-browser.md", "cd examples/browser", "serves a page; the tests of the example open it in Chromium"),
    ("docs/models.md", "captionkit ", HOURS),
    ("docs/names-of-kinds.md", "captionkit train", "needs the bundled model's training set"),
    ("docs/names-of-kinds.md", "captionkit evaluate", "evaluates what the command before makes"),
    ("docs/names-of-kinds.md", "captionkit caption", "captions with what the command before makes"),
    ("docs/published-models.md", "captionkit caption", HUB + "; tests/inference runs small ones"),
    ("docs/self-critical.md", "captionkit ", HOURS),
    ("docs/serve-at-scale.md", "kubectl ", CLUSTER),
    ("docs/your-own-pictures.md", "captionkit ", "tests/training/test_your_own_pictures.py runs the page"),
]
#: Python that is not run: page, text in it, reason
PYTHON_NOT_RUN = [
    ("docs/architecture.md", "", "is run with the README's"),
    (
        "docs/coming-from-transformers.md",
        "vit-gpt2",
        HUB + "; the tests of the pipeline have a small one",
    ),
    ("docs/distil-from-a-large-captioner.md", "ClipScore", HUB),
    ("docs/other-engines.md", "spark.", CLUSTER),
    ("docs/other-engines.md", "dask.", "dask is no dependency"),
    ("docs/other-engines.md", "ray.data", CLUSTER),
    ("docs/recipes.md", "captionkit.train", "takes minutes; tests/training/test_your_own_pictures.py trains so too"),
    ("docs/show-attend-and-tell.md", "", "are lines of the code, explained"),
]
#: what makes a training run of a page a matter of seconds
BRIEF = shlex.split(
    "--image.height 32 --image.width 32 --decoder.embedding 16 --decoder.hidden 24 --decoder.attention 8 "
    "--decoder.memory 16 --trainer.epochs 1 --trainer.report false --trainer.log-samples 1 --data.min-freq 1"
)
#: pages whose commands train, export, evaluate or start processes; those that ask a server are slow too
SLOW = {
    "docs/augmentation.md",
    "docs/coming-from-sgrvinod.md",
    "docs/confidence.md",
    "docs/export.md",
    "docs/recipes.md",
    "docs/training.md",
    "docs/tutorial/bulk.md",
    "docs/tutorial/evaluate.md",
}


def reason_not_to_run(page: str, command: str) -> str | None:
    found = (why for where, begins, why in NOT_RUN if where in ("*", page) and command.startswith(begins))
    return next(found, None)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with small files under the names that the pages use."""
    root = tmp_path_factory.mktemp("documents") / "template"
    root.mkdir()
    photo = Image.open(ROOT / "src/captionkit/assets/examples/cat.jpg").resize((96, 64))
    for name in ["photo.jpg", "photo.png", "other.jpg", "a.jpg", "b.jpg", "chelsea.png", "motorcycle.png"]:
        photo.save(root / name)
    for folder in ("holiday", "photos", "images", "site", "birds/train/NORTHERN CARDINAL", "birds/train/BLUE JAY"):
        (root / folder).mkdir(parents=True)
        for number in range(2):
            photo.rotate(90 * number).save(root / folder / f"{number:06d}.jpg")
    (root / "site/index.html").write_text('<p>A cat:</p><img src="000000.jpg">\n', encoding="utf-8")
    for name in ("my-data", "other-data", "coco"):
        make_shapes(root / name)
    _table(make_shapes(root / "my-pictures"))
    _karpathy(root / "coco")
    _scored(root)
    (toml,) = re.findall(r"```toml\n(.*?)```", text_of("docs/recipes.md"), re.DOTALL)
    (root / "mine.toml").write_text(toml, encoding="utf-8")
    return root


def _table(folder: Path) -> None:
    """Turn a dataset into the table that the tutorial begins with."""
    with (folder / "captions.csv").open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(["image", "caption", "split"])
        for split in ("train", "val"):
            table.writerows([*row, split] for row in _rows(folder / f"captions_{split}.json"))
            (folder / f"captions_{split}.json").unlink()


def _rows(file: Path) -> list[tuple[str, str]]:
    content = json.loads(file.read_text(encoding="utf-8"))
    names = {image["id"]: image["file_name"] for image in content["images"]}
    return [(names[row["image_id"]], row["caption"]) for row in content["annotations"]]


def _karpathy(folder: Path) -> None:
    images: dict[str, dict[str, object]] = {}
    for split in ("train", "val"):
        for name, caption in _rows(folder / f"captions_{split}.json"):
            image = images.setdefault(name, {"filename": name, "split": split, "sentences": []})
            image["sentences"].append({"raw": caption})  # type: ignore[attr-defined]
        (folder / f"captions_{split}.json").unlink()
    next(iter(images.values()))["split"] = "test"
    (folder / "dataset_coco.json").write_text(json.dumps({"images": list(images.values())}), encoding="utf-8")


def _scored(root: Path) -> None:
    """References and two files of candidates, and the captions of COCO that a page makes shards of."""
    captions = ["a dog runs on the grass", "two cats sleep on a couch"]
    images = [{"id": number, "file_name": f"{number:06d}.jpg"} for number in range(2)]
    stated = [{"image_id": number, "caption": caption} for number, caption in enumerate(captions)]
    for name in ("references.json", "captions_train.json"):
        (root / name).write_text(json.dumps({"images": images, "annotations": stated}), encoding="utf-8")
    for number, caption in enumerate(captions):
        (root / f"images/{number:06d}.txt").write_text(caption, encoding="utf-8")
    rows = [{"file_name": image["file_name"], "text": caption} for image, caption in zip(images, captions, strict=True)]
    (root / "photos/metadata.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    for name, said in (("results.json", "a dog on grass"), ("other.json", "a cat")):
        results = [{"image_id": number, "caption": said} for number in range(2)]
        (root / name).write_text(json.dumps(results), encoding="utf-8")


@pytest.fixture
def desk(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of its own for a page, in which it works, with `captionkit` and `python` on the path."""
    folder = Path(shutil.copytree(template, tmp_path / "desk"))
    programs = tmp_path / "programs"
    programs.mkdir()
    for name, words in (("captionkit", f"{sys.executable} -m captionkit"), ("python", sys.executable)):
        (programs / name).write_text(f'#!/bin/sh\nexec {words} "$@"\n', encoding="utf-8")
        (programs / name).chmod(0o755)
    source = str(Path(cli.__file__).parents[2])
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", source)
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """What answers the requests of the pages."""
    pytest.importorskip("fastapi", reason="the extra `serve` is not installed")
    with started(tmp_path_factory.mktemp("server") / "folder") as server:
        yield server


def cases() -> Iterator[object]:
    for page in PAGES:
        if any(block.is_shell and _run(page, block) for block in blocks(page)):
            slow = page in SLOW or "localhost:1234" in text_of(page)
            yield pytest.param(page, id=page, marks=[pytest.mark.slow] if slow else [])


def _run(page: str, block: Block) -> list[str]:
    return [command for command in block.commands if not reason_not_to_run(page, command)]


@pytest.mark.parametrize("page", list(cases()))
def test_the_commands_of_a_page_run(page: str, desk: Path, request: pytest.FixtureRequest) -> None:
    for block in blocks(page):
        for command in _run(page, block) if block.is_shell else []:
            if "localhost:1234" in command:
                command = command.replace(
                    "localhost:1234", request.getfixturevalue("server").url.removeprefix("http://")
                )
            if command.startswith("captionkit ") and not re.search(r"[|&<>*]", command):
                in_process(shlex.split(command)[1:], request)
            else:
                done = subprocess.run(["bash", "-euo", "pipefail", "-c", command], capture_output=True, text=True)
                assert done.returncode == 0, f"{command}\n{done.stderr}"
                assert '"error"' not in done.stdout, f"{command}\n{done.stdout}"


def in_process(words: list[str], request: pytest.FixtureRequest) -> None:
    """Run a command of captionkit in this process; one that trains does so briefly, with a small encoder."""
    if words[0] == "train":
        assert cli.main(briefly(words, str(request.getfixturevalue("backbone")))) == 0, shlex.join(words)
        return
    if "run/best" in words and not Path("run").exists():
        shutil.copytree(request.getfixturevalue("untrained") if words[0] == "export" else open_model().path, "run/best")
    assert cli.main(words) == 0, shlex.join(words)


def briefly(words: list[str], backbone: str) -> list[str]:
    """Return a command that trains with what makes it take seconds, its folder being as empty as a reader's."""
    shutil.rmtree(words[words.index("--output") + 1], ignore_errors=True)
    words = [backbone if word.startswith("microsoft/") else word for word in words]
    return [*words, *([] if backbone in words else ["--encoder.name", backbone]), *BRIEF]


def test_what_is_not_run_is_there_and_has_its_reason() -> None:
    """An entry that no command needs any more is to go."""
    for where, begins, _ in NOT_RUN:
        pages = PAGES if where == "*" else [where]
        assert any(command.startswith(begins) for page in pages for command in shell_commands(page)), (where, begins)
    for page, part, _ in PYTHON_NOT_RUN:
        assert any(part in block.text for block in blocks(page) if block.language == "python"), (page, part)


@pytest.mark.parametrize("page", PAGES)
def test_every_command_is_understood(page: str) -> None:
    """Every `captionkit` line is one that the command line understands, whether it is run or not."""
    for command in shell_commands(page):
        if command.startswith("captionkit "):
            words = shlex.split(command.partition(" && ")[0])[1:]
            assert cli._parser(words).parse_args(words).command
    for script in re.findall(r"python (bench/\w+\.py|train\.py|space/\w+\.py)", text_of(page)):
        assert (ROOT / script).is_file(), f"{page}: {script}"


def python_of(page: str) -> list[str]:
    left_out = [part for where, part, _ in PYTHON_NOT_RUN if where == page]
    python = [block.text for block in blocks(page) if block.language == "python"]
    return [text for text in python if not any(part in text for part in left_out)]


def python_cases() -> Iterator[object]:
    for page in PAGES:
        if python_of(page):
            slow = page in SLOW or "localhost:1234" in text_of(page)
            yield pytest.param(page, id=page, marks=[pytest.mark.slow] if slow else [])


@pytest.mark.parametrize("page", list(python_cases()))
def test_the_python_of_a_page_runs(
    page: str, desk: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = "\n".join(python_of(page))
    if "localhost:1234" in code:
        code = code.replace("http://localhost:1234", request.getfixturevalue("server").url)
        image = base64.b64encode(Path("photo.jpg").read_bytes()).decode()
        code = code.replace("base64,...", f"base64,{image}")
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)  # the service is on this machine
    exec(compile(code, page, "exec"), {"__name__": page})


def test_two_set_up_commands() -> None:
    assert len([line for line in text_of("README.md").splitlines() if line.startswith("pip install ")]) == 2


def test_captions_of_the_readme_are_those_of_the_bundled_model() -> None:
    import captionkit
    from captionkit.viz.samples import sample_photos

    pytest.importorskip("skimage", reason="the extra `demo` is not installed")
    photos, model = dict(sample_photos()), captionkit.load()
    rows = [line.strip("| ").split(" | ") for line in text_of("README.md").splitlines() if line.startswith("| ")]
    names = [re.search(r"figures/(\w+)\.jpg", cell)[1] for cell in rows[0]]  # type: ignore[index]
    assert [str(model.caption(photos[f"{name}.png"])) for name in names] == rows[1]
    confidence = model.caption(photos["astronaut.png"]).confidence
    assert f"a confidence of {confidence:.0%}".replace("%", " %") in rows[2][2]
