"""Model folders: what is written is what is read, and damage never passes unseen."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from captionkit.errors import CaptionkitError, ModelError
from captionkit.inference import model_folder
from captionkit.inference.model_folder import CONFIG, ENCODER, TOKENIZER, open_model, update_model, write_model
from captionkit.utils import atomic_write


@pytest.fixture
def folder(untrained: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(untrained, tmp_path / "model"))


def edit(folder: Path, **values: object) -> None:
    path = folder / CONFIG
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def test_written_is_read(tmp_path: Path) -> None:
    tables = {"architecture": {"grid": [2, 3]}, "preprocessing": {"height": 8}, "decoding": {"num_beams": 2}}
    write_model(tmp_path / "m", tables, {"a.bin": b"abc", "b.bin": b""})
    model = open_model(tmp_path / "m")
    assert model.read("a.bin") == b"abc"
    assert model.read("b.bin") == b""
    assert model.grid == (2, 3)
    assert model.preprocessing.height == 8
    assert model.decoding.num_beams == 2
    assert not model.runnable
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m"], "nothing temporary is left"


def test_every_changed_byte_is_seen(folder: Path) -> None:
    model = open_model(folder)
    for name in model.config["files"]:
        content = (folder / name).read_bytes()
        for place in (0, len(content) // 2, len(content) - 1):
            damaged = bytearray(content)
            damaged[place] ^= 1
            (folder / name).write_bytes(damaged)
            with pytest.raises(ModelError, match=f"{name}: its content differs"):
                model.read(name)
        (folder / name).write_bytes(content[:-1])
        with pytest.raises(ModelError, match=f"has {len(content) - 1} bytes instead of {len(content)}"):
            model.read(name)
        (folder / name).unlink()
        with pytest.raises(ModelError, match="cannot be read"):
            model.read(name)


def test_newer_format_is_refused_with_the_way_out(folder: Path) -> None:
    edit(folder, format=model_folder.FORMAT + 1)
    with pytest.raises(ModelError, match=r"newer than this captionkit reads.*pip install -U captionkit"):
        open_model(folder)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("{", "not JSON"),
        ("[]", "no format number"),
        ('{"format": "1"}', "no format number"),
        ('{"format": 1}', "files"),
    ],
)
def test_damaged_config(folder: Path, content: str, reason: str) -> None:
    (folder / CONFIG).write_text(content)
    with pytest.raises(ModelError, match=reason) as caught:
        open_model(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["../outside", "/etc/passwd", "sub/file"])
def test_listed_files_stay_in_the_folder(folder: Path, name: str) -> None:
    edit(folder, files={name: {"bytes": 1, "sha256": "0"}})
    with pytest.raises(ModelError, match="list of files is damaged"):
        open_model(folder)


def test_no_folder_and_no_hub_id(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no model folder"):
        open_model(tmp_path / "nothing")
    with pytest.raises(ModelError, match="no model folder"):
        open_model(tmp_path)


def test_hub_id_is_fetched_by_its_files_only(untrained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = {}

    def snapshot(repo: str, *, revision: str | None, allow_patterns: list[str]) -> str:
        asked.update(repo=repo, revision=revision, files=allow_patterns)
        return str(untrained)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    assert open_model("someone/model@v2").tokenizer.bos_id == 1
    assert asked["repo"] == "someone/model"
    assert asked["revision"] == "v2"
    assert not any(name.endswith((".bin", ".pt", ".pkl")) for name in asked["files"])


def test_unreachable_hub_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> str:
        raise OSError("no route\nto host")

    monkeypatch.setattr("huggingface_hub.snapshot_download", fail)
    with pytest.raises(ModelError, match=r"^someone/model: .*no route\)$"):
        open_model("someone/model")


def test_push_uploads_what_was_verified(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    class Api:
        def create_repo(self, repo: str, exist_ok: bool) -> None:
            calls.append(("create", repo))

        def upload_folder(self, *, repo_id: str, folder_path: Path, allow_patterns: list[str]) -> None:
            calls.append(("upload", sorted(allow_patterns)))

    monkeypatch.setattr("huggingface_hub.HfApi", Api)
    assert model_folder.push_model(open_model(folder), "me/mine") == "https://huggingface.co/me/mine"
    assert calls == [("create", "me/mine"), ("upload", sorted([CONFIG, *open_model(folder).config["files"]]))]
    (folder / TOKENIZER).write_text("{}")
    with pytest.raises(ModelError, match=TOKENIZER):
        model_folder.push_model(open_model(folder), "me/mine")


def test_missing_graphs_name_the_command(untrained: Path) -> None:
    with pytest.raises(ModelError, match="captionkit export"):
        open_model(untrained).read(ENCODER)


def test_update_keeps_the_rest(folder: Path) -> None:
    before = open_model(folder)
    after = update_model(before, {"new.bin": b"1"}, {"note": {"x": 1}})
    assert after.read("new.bin") == b"1"
    assert after.read(TOKENIZER) == before.read(TOKENIZER)
    assert open_model(folder).section("note") == {"x": 1}
    after.verify()


@pytest.mark.parametrize("name", ["bundled", "owner/name"])
def test_a_folder_may_be_called_as_other_models_are(
    untrained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """What is written lies in that folder, and no other model is asked for, on a Hub or elsewhere."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(model_folder, "_from_hub", lambda source: pytest.fail(f"{source} was asked for"))
    for _ in range(2):  # new, and over what is there
        written = update_model(open_model(untrained), {}, to=Path(name))
        assert written.config["files"] == open_model(untrained).config["files"]
        (tmp_path / name / "notes.txt").write_text("mine")
    assert (tmp_path / name / "notes.txt").read_text() == "mine"


def test_kill_between_the_renames_loses_nothing(folder: Path) -> None:
    folder.rename(folder.with_name(f".{folder.name}.old"))  # the state after the first of the two
    assert len(open_model(folder).tokenizer) > 4


def test_failed_write_leaves_the_old_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, content: bytes) -> None:
        raise CaptionkitError("disk full")

    before = (folder / CONFIG).read_bytes()
    monkeypatch.setattr(atomic_write, "write_bytes", full)
    with pytest.raises(CaptionkitError, match="disk full"):
        write_model(folder, {}, {"a": b"1"})
    assert (folder / CONFIG).read_bytes() == before
    assert sorted(p.name for p in folder.parent.iterdir()) == [folder.name]


def test_write_bytes_names_the_file_when_it_cannot(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CaptionkitError, match=r"x\.json: cannot be written"):
        atomic_write.write_bytes(tmp_path / "file" / "x.json", b"")


def test_failing_write_keeps_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.txt"
    atomic_write.write_text(path, "old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(CaptionkitError, match="No space left on device"):
        atomic_write.write_text(path, "new")
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_a_bad_setting_names_the_file(folder: Path) -> None:
    edit(folder, decoding={"beem": 3}, preprocessing={"height": 0})
    model = open_model(folder)
    with pytest.raises(ModelError, match=r"config\.json: decoding has no field 'beem'; known: num_beams"):
        _ = model.decoding
    with pytest.raises(ModelError, match=r"config\.json: preprocessing: height must be"):
        _ = model.preprocessing
