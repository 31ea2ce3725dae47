"""The model folder: config.json, tokenizer.json, model.safetensors, encoder.onnx, decoder.onnx and README.md.

`config.json` holds the architecture, the preprocessing, the decoding defaults, how the model was trained, and the size
and sha256 of every other file. A file is checked against them in the same read that uses it.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shutil
import struct
import tempfile
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from captionkit.errors import CaptionkitError, ModelError, one_line
from captionkit.inference.caption_confidence import CaptionConfidence
from captionkit.inference.word_confidence import WordConfidence
from captionkit.utils import atomic_write, output_checks, paths

LOG = logging.getLogger(__name__)

# What reads a folder's parts is imported with the first of them: see captionkit.inference.load.
if TYPE_CHECKING:
    from captionkit.data.images import Preprocessing
    from captionkit.data.tokenizer import Tokenizer
    from captionkit.inference.search import Decoding, Stepper

T = TypeVar("T")

#: version of the folder's format; a folder of a newer one is refused
FORMAT = 1
CONFIG, TOKENIZER, WEIGHTS, ENCODER, DECODER, CARD = (
    "config.json",
    "tokenizer.json",
    "model.safetensors",
    "encoder.onnx",
    "decoder.onnx",
    "README.md",
)
#: the model that comes with the package
BUNDLED = Path(__file__).parents[1] / "assets" / "everyday"
_MAX_CONFIG_BYTES = 4 << 20
_BLOCK = 1 << 20  # bytes that are hashed at once
#: in a model folder: a model that is written whole, and about to be moved to its place; and what writing may leave
_NEXT = ".model.next"
_LEFT = re.compile(r"\.model\.next|\..*\.\w{8}\.partial")
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+(@[\w.-]+)?")


@dataclass(frozen=True)
class ModelFolder:
    """An opened model folder. Nothing but `config.json` has been read yet."""

    path: Path
    config: Mapping[str, Any]
    #: of its graphs, if they come in several
    precision: str = "auto"

    @property
    def name(self) -> str:
        """What to call the model."""
        return self.path.name

    def with_precision(self, precision: str) -> ModelFolder:
        """Return the folder with the graphs of another precision in use. Raises ModelError if it has none."""
        return replace(self, precision=precision)

    @cached_property
    def graphs(self) -> dict[str, str]:
        """The file of each graph, "encoder" and "decoder". Raises ModelError for a precision that is not there."""
        from captionkit.inference.published.graphs import graph_files

        own = "int8" if "int8" in self.config else "fp32"
        if self.runnable and self.precision in ("auto", own):
            return {"encoder": ENCODER, "decoder": DECODER}
        try:
            return graph_files(self.config["files"], (("encoder", "decoder"), ()), self.precision)
        except ModelError as error:
            if self.precision == "auto":  # what reading them reports, with the way out
                return {"encoder": ENCODER, "decoder": DECODER}
            raise ModelError(f"{self.path}: {error}") from None

    def stepper(self, threads: int | None = None, device: str = "cpu") -> Stepper:
        """Open the graphs. Raises ModelError."""
        from captionkit.inference.onnx_runtime import OnnxStepper

        if device == "cuda":
            from captionkit.inference.bound_stepper import BoundStepper

            return BoundStepper(self, threads=threads, device=device)
        return OnnxStepper(self, threads=threads, device=device)

    def check_storable(self) -> None:
        """Refuse, before any work, tables that could not be stored in the folder. Raises CaptionkitError."""
        check_place(self.path)

    def store(self, tables: Mapping[str, Any]) -> None:
        """Store tables such as "decoding" and "calibration" in the folder's config."""
        update_model(self, {}, tables)

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer."""
        from captionkit.data.tokenizer import Tokenizer

        self.read(TOKENIZER)
        if "special_tokens" not in self.config:
            return Tokenizer.load(self.path / TOKENIZER)
        from captionkit.data.pretrained_tokenizer import PretrainedTokenizer
        from captionkit.data.special_tokens import SpecialTokens
        from captionkit.data.tokenizer import read_backend

        special = self._parse("special_tokens", SpecialTokens.from_dict)
        return PretrainedTokenizer(read_backend(self.path / TOKENIZER), special)

    @cached_property
    def preprocessing(self) -> Preprocessing:
        """What to do to an image before the encoder sees it."""
        from captionkit.data.images import Preprocessing

        return self._parse("preprocessing", Preprocessing.from_dict)

    @cached_property
    def decoding(self) -> Decoding:
        """The decoding that the model's makers chose."""
        from captionkit.inference.search import Decoding

        return self._parse("decoding", Decoding.from_dict)

    @cached_property
    def calibration(self) -> WordConfidence:
        """The curve from a word's probability to its confidence; that of a folder without one changes nothing."""
        return (
            self._parse("calibration", WordConfidence.from_dict) if "calibration" in self.config else WordConfidence()
        )

    @cached_property
    def confidence(self) -> CaptionConfidence | None:
        """How likely a caption is right in the main thing; None where that was not fitted."""
        return self._parse("confidence", CaptionConfidence.from_dict) if "confidence" in self.config else None

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of the attention maps; 0, 0 for a model without maps."""
        architecture = self.section("architecture")
        if "special_tokens" in self.config and architecture.get("grid") is None:
            return 0, 0
        try:
            rows, columns = map(int, architecture["grid"])
        except (KeyError, TypeError, ValueError):
            raise ModelError(
                f"{self.path / CONFIG}: architecture: has no grid; it is damaged, get the model again"
            ) from None
        return rows, columns

    @property
    def runnable(self) -> bool:
        """Whether the ONNX graphs are there, so that captioning needs no torch."""
        return {ENCODER, DECODER} <= set(self.config["files"])

    def section(self, name: str) -> dict[str, Any]:
        """One table of the config. Raises ModelError where it is missing."""
        found = self.config.get(name)
        if not isinstance(found, dict):
            raise ModelError(f"{self.path / CONFIG}: has no table {name!r}; it is damaged, get the model again")
        return found

    def _parse(self, name: str, parse: Callable[[Mapping[str, Any]], T]) -> T:
        table = self.section(name)
        try:
            return parse(table)
        except ModelError as error:
            raise ModelError(f"{self.path / CONFIG}: {error}") from None

    def read(self, name: str) -> bytes:
        """The content of a file of the folder, checked. Raises ModelError if it is absent or not what was saved."""
        expected = self.config["files"].get(name)
        if expected is None:
            raise ModelError(f"{self.path}: has no {name}; {_REMEDY.get(name, 'get the model again')}")
        try:
            paths.check_file(self.path / name, ModelError)
            content = (self.path / name).read_bytes()
        except OSError as error:
            raise ModelError(paths.unreadable(self.path / name, error)) from None
        if len(content) != expected["bytes"]:
            raise ModelError(
                f"{self.path / name}: has {len(content)} bytes instead of {expected['bytes']}; get the model again"
            )
        if hashlib.sha256(content).hexdigest() != expected["sha256"]:
            raise ModelError(f"{self.path / name}: its content differs from what was saved; get the model again")
        return content

    def verify(self) -> None:
        """Check every file of the folder. Raises ModelError at the first that is not what was saved."""
        for name in self.config["files"]:
            self.read(name)


_REMEDY = {
    ENCODER: "make the ONNX graphs with `captionkit export`",
    DECODER: "make the ONNX graphs with `captionkit export`",
    WEIGHTS: "without weights it can caption, but not be trained or exported",
}


def open_model(source: str | os.PathLike[str] | None = None) -> ModelFolder:
    """Open a model: a folder, a Hub id such as `owner/name` (or `owner/name@revision`), or None for the bundled one."""
    path = BUNDLED if source is None or str(source) == "bundled" else _found(source)
    with suppress(OSError):  # whoever may not write here reads what is there
        _settle(path)
    config_path = path / CONFIG
    if not paths.exists(config_path, ModelError):
        raise ModelError(
            f"{paths.shown(path)}: no model folder ({CONFIG} not found); give a folder made by captionkit, or a Hub id"
        )
    content = paths.read_text(config_path, ModelError, limit=_MAX_CONFIG_BYTES)
    try:
        config = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{config_path}: not JSON ({error}); get the model again") from None
    _check(config, config_path)
    return ModelFolder(path, config)


def _found(source: str | os.PathLike[str]) -> Path:
    """Where a model that is named lies, fetched from the Hub where no folder has that name."""
    path = Path(source)
    if not paths.exists(source, ModelError) and path.name:
        _bring_back(path)
        if not paths.exists(path) and is_hub_id(str(source)):
            return _from_hub(str(source))
    return path


def is_hub_id(name: str) -> bool:
    """Return whether a name could be that of a model on the Hub, perhaps with its revision."""
    return _HUB_ID.fullmatch(name) is not None


def _check(config: Any, path: Path) -> None:
    version = config.get("format") if isinstance(config, dict) else None
    if not isinstance(version, int):
        kind = config.get("model_type") if isinstance(config, dict) else None
        if isinstance(kind, str):
            raise ModelError(
                f"{path}: a model of another kind ({kind:.60}), not a folder made by captionkit; `captionkit caption`, "
                "serve and evaluate run some as they are, `captionkit import` converts others"
            )
        raise ModelError(f"{path}: not a captionkit config (no format number); give a folder made by captionkit")
    if version > FORMAT:
        raise ModelError(
            f"{path}: format {version} is newer than this captionkit reads ({FORMAT}); run `pip install -U captionkit`"
        )
    listed = config.get("files")
    good = isinstance(listed, dict) and all(
        isinstance(entry, dict) and {"bytes", "sha256"} <= set(entry) for entry in listed.values()
    )
    if not good or any(Path(name).name != name for name in listed):
        raise ModelError(f"{path}: its list of files is damaged; get the model again")


def write_model(path: str | os.PathLike[str], config: Mapping[str, Any], contents: Mapping[str, bytes]) -> ModelFolder:
    """Write a model folder whole, replacing the model at `path`. `contents` maps file names to bytes.

    Files and folders there that are no part of that model, such as somebody's notes, stay; a part of it that somebody
    has changed is kept under another name. Raises CaptionkitError where something else than a model is there.
    """
    described = {
        name: {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        for name, content in sorted(contents.items())
    }
    full = {"format": FORMAT, **config, "files": described}
    config_bytes = (json.dumps(full, indent=1, ensure_ascii=False) + "\n").encode()
    path = Path(path)
    try:
        _write(path, {**contents, CONFIG: config_bytes})
    except OSError as error:
        raise atomic_write.cannot_write(path, error) from None
    return ModelFolder(path, full)


def check_place(path: Path, *, inputs: Iterable[str | os.PathLike[str]] = ()) -> None:
    """Refuse, before any work, a folder that a model cannot be written to, or must not.

    It may be new, empty, or hold a model that captionkit wrote, beside which other files stay. Raises CaptionkitError
    where it is one of the `inputs` of the run, belongs to the package, or holds something that would be replaced.
    """
    way_out = "is not written to; use a copy of its folder, or give --output"
    if paths.real(path) == paths.real(BUNDLED):
        raise CaptionkitError(f"the bundled model belongs to the package and {way_out}")
    if in_hub_cache(path):
        raise CaptionkitError(f"{path}: belongs to the Hub's cache and {way_out}")
    output_checks.check_output_folder(path, inputs=inputs)
    known = _files_at(path)
    for name in sorted({TOKENIZER, WEIGHTS, ENCODER, DECODER, CARD, *known}):
        if os.path.lexists(path / name) and not _is_saved(path / name, known.get(name)):
            raise CaptionkitError(
                f"{path / name}: was not written by captionkit, or changed since; move it away or name another folder"
            )


def in_hub_cache(path: Path) -> bool:
    """Whether this is a folder of huggingface_hub's cache, whose files are links to what other revisions share."""
    return path.parent.name == "snapshots" and path.parent.parent.name.startswith("models--")


def _files_at(path: Path) -> Mapping[str, Any]:
    """What the model in a folder lists; nothing where the folder is new or empty.

    Raises CaptionkitError where it holds something else.
    """
    if not path.exists():
        return {}
    try:
        listed: Mapping[str, Any] = open_model(path.absolute()).config["files"]
    except ModelError:  # absolute, or "bundled" and "owner/name" would be other models
        if foreign := next((name for name in sorted(os.listdir(path)) if not _LEFT.fullmatch(name)), ""):  # noqa: PTH208
            raise CaptionkitError(
                f"{path}: holds {foreign}, and no model that captionkit wrote; name a new or empty folder"
            ) from None
        return {}
    return listed


def _is_saved(path: Path, entry: Mapping[str, Any] | None) -> bool:
    """Whether a file is what captionkit wrote: its `entry` in the list of files says what that was."""
    if entry is None or not path.is_file() or path.stat().st_size != entry["bytes"]:
        return False
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return bool(digest.hexdigest() == entry["sha256"])


def _write(path: Path, contents: Mapping[str, bytes]) -> None:
    """Write all files beside their places, and only then move them there."""
    _files_at(path)
    place = Path(os.path.realpath(path))  # what a link leads to
    new = not place.exists()
    place.mkdir(parents=True, exist_ok=True)
    staged = Path(tempfile.mkdtemp(dir=place, prefix=f".{place.name[:50]}.", suffix=".partial"))
    try:
        for name, content in contents.items():
            atomic_write.write_bytes(staged / name, content)
        staged.rename(place / _NEXT)
    except BaseException:
        shutil.rmtree(staged, ignore_errors=True)
        if new:
            with suppress(OSError):
                place.rmdir()
        raise
    _settle(place)


def _settle(place: Path) -> None:
    """Move a model that has been written whole to its place; one that a kill kept on its way there, too.

    The config comes last: until then, what is still to be done is known, and so are the old model's files.
    """
    ready = place / _NEXT
    if not (ready / CONFIG).is_file():
        if ready.is_dir():
            ready.rmdir()
        return
    old, new = _listed(place / CONFIG) or {}, _listed(ready / CONFIG)
    if new is None:
        return
    for name in sorted({*old, *new}):
        if name in new and not (ready / name).exists():
            continue  # is there already
        if os.path.lexists(place / name) and not _is_saved(place / name, old.get(name)):
            _set_aside(place / name)
        if name in new:
            _move(ready / name, place / name)
        else:
            (place / name).unlink(missing_ok=True)
    _move(ready / CONFIG, place / CONFIG)
    ready.rmdir()


def _listed(config: Path) -> dict[str, Any] | None:
    """The list of files in a config; None where there is none that captionkit wrote."""
    try:
        found = json.loads(config.read_bytes())
        _check(found, config)
    except (OSError, ValueError, ModelError):
        return None
    return dict(found["files"])


def _move(path: Path, to: Path) -> None:
    if to.is_symlink():
        atomic_write.write_bytes(to, path.read_bytes())
        path.unlink()
        return
    if to.exists():
        atomic_write.set_rights(path, to.stat())
    path.replace(to)


def _set_aside(path: Path) -> None:
    """Give another name to what is no part of the model as it was written."""
    names = (path.with_name(f"{path.name}.kept{f'-{number}' if number > 1 else ''}") for number in count(1))
    kept = next(name for name in names if not os.path.lexists(name))
    path.rename(kept)
    LOG.warning("%s was not written by captionkit, or changed since; it is kept as %s", path, kept.name)


def _bring_back(path: Path) -> None:
    """Bring back a model of earlier versions, which exchanged whole folders and may have been killed while at it."""
    old = path.with_name(f".{path.name}.old")
    if (old / CONFIG).is_file():
        with suppress(OSError):
            old.rename(path)


def update_model(
    folder: ModelFolder,
    contents: Mapping[str, bytes],
    config: Mapping[str, Any] | None = None,
    *,
    to: Path | None = None,
) -> ModelFolder:
    """The folder again, or a copy at `to`, with some files and config tables replaced or added and all others kept.

    A config table that is given as None goes.
    """
    kept = {name: folder.read(name) for name in folder.config["files"] if name not in contents}
    tables = {name: value for name, value in folder.config.items() if name not in ("format", "files")}
    merged = {name: value for name, value in {**tables, **(config or {})}.items() if value is not None}
    return write_model(to or folder.path, merged, {**kept, **contents})


def copy_model(folder: ModelFolder, path: str | os.PathLike[str]) -> ModelFolder:
    """Copy a model folder, every file of it checked, to `path`; files there that are no part of a model stay.

    Raises CaptionkitError where something else than a model that captionkit wrote would be replaced.
    """
    place = Path(path)
    check_place(place, inputs=[folder.path])
    config = {name: value for name, value in folder.config.items() if name not in ("format", "files")}
    return write_model(place, config, {name: folder.read(name) for name in folder.config["files"]})


def push_model(folder: ModelFolder, repo: str) -> str:
    """Upload a checked model folder to the Hugging Face Hub; returns its address."""
    from huggingface_hub import HfApi

    folder.verify()
    api = HfApi()
    try:
        api.create_repo(repo, exist_ok=True)
        api.upload_folder(repo_id=repo, folder_path=folder.path, allow_patterns=[CONFIG, *folder.config["files"]])
    except Exception as error:
        raise ModelError(
            f"{repo}: cannot be pushed to the Hub ({one_line(error)}); log in with `hf auth login`"
        ) from None
    return f"https://huggingface.co/{repo}"


def _from_hub(name: str) -> Path:
    from huggingface_hub import snapshot_download

    repo, _, revision = name.partition("@")
    wanted = [CONFIG, TOKENIZER, WEIGHTS, ENCODER, DECODER, "encoder_*.onnx", "decoder_*.onnx", CARD]
    try:
        return Path(snapshot_download(repo, revision=revision or None, allow_patterns=wanted))
    except Exception as error:  # the Hub raises many kinds; all mean that there is no model to be had
        raise ModelError(f"{name}: no such folder, and not to be had from the Hub ({one_line(error)})") from None


def parameters_of(path: Path) -> int:
    """Numbers in a safetensors file, from its header alone; 0 where there is none."""
    try:
        with path.open("rb") as file:
            (size,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(min(size, 1 << 26)))
    except (OSError, ValueError, struct.error):
        return 0
    total = 0
    for name, entry in header.items():
        if name != "__metadata__":
            count = 1
            for extent in entry["shape"]:
                count *= extent
            total += count
    return total
