"""`captionkit import`: folders of transformers' own models become model folders that say what `generate` says."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("transformers", reason="the extra `train` is not installed")

import pretrained_captioners as tiny
from captionkit.errors import CaptionkitError, ModelError
from captionkit.export.importers.convert import graph_name, import_model
from captionkit.inference.load import load
from captionkit.inference.model_folder import CARD, DECODER, ENCODER, open_model

pytestmark = pytest.mark.slow  # each family is imported once, which takes 20 to 40 seconds

PUBLISHED = ("blip", "git", "vit-gpt2", "blip2", "florence2")


@pytest.fixture(scope="module", params=PUBLISHED)
def imported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """A network and the model folder that it was imported into."""
    root = tmp_path_factory.mktemp(request.param)
    network = tiny.network_of(request.param)
    source = tiny.save(network, root / "published")
    import_model(source, root / "model", precisions=["fp32"], images=tiny.images(4))
    return network, root / "model"


@pytest.mark.parametrize("beam", [1, 3])
@pytest.mark.parametrize("together", [1, 20])
def test_the_folder_says_what_generate_says(imported: tuple[Any, Path], beam: int, together: int) -> None:
    network, folder = imported
    captioner = load(folder)
    photos = tiny.images()
    pixels = np.stack([captioner.open(photo).pixels for photo in photos])
    expected = tiny.generate(network, torch.from_numpy(pixels), num_beams=beam, max_new_tokens=12)
    decoding = {"num_beams": beam, "min_length": 0, "max_length": 12}
    outcomes = captioner.stream(photos, batch_size=together, **decoding)
    assert [list(outcome.caption.tokens) for outcome in outcomes] == expected


def test_the_folder_says_where_it_looked(imported: tuple[Any, Path]) -> None:
    _, folder = imported
    opened, caption = open_model(folder), load(folder).caption(tiny.images(1)[0])
    rows, columns = opened.grid
    assert caption.attention.shape[1:] == (rows, columns)
    if rows:
        np.testing.assert_allclose(caption.attention.sum((1, 2)), 1, atol=1e-5)


def test_the_folder_needs_no_torch(imported: tuple[Any, Path], photos: Path) -> None:
    _, folder = imported
    code = (
        "import sys; sys.modules.update(torch=None, transformers=None)\n"
        "from captionkit.cli.main import main; sys.exit(main(sys.argv[1:]))"
    )
    asked = [sys.executable, "-c", code, "caption", str(photos), "--model", str(folder), "--json"]
    done = subprocess.run(asked, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    said = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(said) == 3 and all(record["captions"] for record in said)


def test_the_card_names_source_and_licence(imported: tuple[Any, Path]) -> None:
    folder = open_model(imported[1])
    card = folder.read(CARD).decode()
    assert "license: bsd-3-clause" in card and "| source | `published` |" in card
    assert str(imported[1].parent) not in card + json.dumps(dict(folder.config))
    assert folder.section("source") == {"id": "published", "license": "bsd-3-clause"}
    assert folder.section("import")["compared"]["fp32"]["same_captions"] == 4


def test_smaller_precisions_lie_beside(tmp_path: Path) -> None:
    network = tiny.network_of("blip")
    source = tiny.save(network, tmp_path / "published")
    report = import_model(source, tmp_path / "model", images=tiny.images(4))
    folder = open_model(tmp_path / "model")
    names = [graph_name(name, kind) for kind in ("fp32", "fp16", "int8") for name in (ENCODER, DECODER)]
    assert set(names) <= set(folder.config["files"])
    sizes = [folder.config["files"][name]["bytes"] for name in names[::2]]
    assert sizes == sorted(sizes, reverse=True)
    assert [parity.precision for parity in report.parities] == ["fp32", "fp16", "int8"]
    assert "int8" in folder.section("import") and report.int8 is not None
    for precision in ("fp32", "fp16", "int8"):
        assert load(folder.path, precision=precision).caption(tiny.images(1)[0]).tokens
    folder.verify()


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny BLIP as its makers save it."""
    return tiny.save(tiny.network_of("blip"), tmp_path_factory.mktemp("source") / "blip")


def _copy(source: Path, to: Path) -> Path:
    to.mkdir()
    for file in source.iterdir():
        (to / file.name).write_bytes(file.read_bytes())
    return to


def _with_config(folder: Path, **values: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda f: (f / "config.json").unlink(), r"has no config\.json"),
        (lambda f: (f / "config.json").write_text("{"), "is no config of transformers"),
        (lambda f: _with_config(f, model_type="bert"), "is of the kind 'bert'; kinds that can be imported: blip, "),
        (lambda f: _with_config(f, architectures=["BlipForQuestionAnswering"]), "makes no captions"),
        (lambda f: (f / "model.safetensors").rename(f / "pytorch_model.bin"), "pickled ones are not loaded"),
        (lambda f: (f / "model.safetensors").write_bytes(b"\0" * 64), "transformers cannot load it"),
        (lambda f: (f / "preprocessor_config.json").unlink(), r"has no preprocessor_config\.json"),
        (lambda f: (f / "tokenizer.json").write_text("{"), "transformers cannot load it"),
    ],
)
def test_what_cannot_be_imported_is_said_in_one_line(published: Path, tmp_path: Path, damage: Any, reason: str) -> None:
    source = _copy(published, tmp_path / "source")
    damage(source)
    with pytest.raises(ModelError, match=reason) as caught:
        import_model(source, tmp_path / "model", images=tiny.images(1))
    assert "\n" not in str(caught.value) and str(source) in str(caught.value)
    assert not (tmp_path / "model").exists()


def test_weights_that_are_missing_are_named(published: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    source = _copy(published, tmp_path / "source")
    weights = load_file(source / "model.safetensors")
    weights.pop(next(name for name in weights if "crossattention" in name))
    save_file(weights, source / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"has no weights for .*crossattention.* \(1 missing\)"):
        import_model(source, tmp_path / "model", images=tiny.images(1))


def test_a_folder_of_the_users_is_not_written_to(published: Path, tmp_path: Path) -> None:
    notes = tmp_path / "mine" / "notes.txt"
    notes.parent.mkdir()
    notes.write_text("mine")
    with pytest.raises(CaptionkitError, match=r"holds notes\.txt"):
        import_model(published, notes.parent, images=tiny.images(1))
    with pytest.raises(CaptionkitError):
        import_model(published, published, images=tiny.images(1))
    assert notes.read_text() == "mine"


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"precisions": ["int4"]}, "precision int4: use some of fp32, fp16, int8"),
        ({"precisions": []}, "precision none"),
        ({"style": "long"}, "style 'long' is for Florence-2"),
        ({"style": "rhyming"}, "style 'rhyming'"),
    ],
)
def test_wrong_options(published: Path, tmp_path: Path, options: dict[str, Any], reason: str) -> None:
    with pytest.raises(CaptionkitError, match=reason):
        import_model(published, tmp_path / "model", images=tiny.images(1), **options)
