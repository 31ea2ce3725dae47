"""The ONNX graphs of a published model: which files there are, in which precision, and opening them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from captionkit.errors import CaptionkitError, ModelError
from captionkit.inference.devices import CPU, PRECISIONS

if TYPE_CHECKING:
    import onnxruntime as ort

#: weights beside a graph that is too large for one file
_DATA = re.compile(r"\.onnx_data(_\d+)?$|\.onnx\.data$")


def graph_files(files: Iterable[str], layouts: Sequence[Sequence[str]], precision: str) -> dict[str, str]:
    """Return the file, relative to the folder, of each graph that a family needs.

    `files` are all names in the folder with "/", `layouts` what the family needs: the first layout, and of the others
    one. Raises CaptionkitError for an unknown precision, ModelError if a graph is missing.
    """
    if precision != "auto" and precision not in PRECISIONS:
        raise CaptionkitError(f"precision {precision!r} is unknown; use auto, {', '.join(PRECISIONS)}")
    known = {PurePosixPath(name).name: name for name in sorted(files, reverse=True) if name.endswith(".onnx")}
    needed, *decoders = layouts
    for chosen in PRECISIONS if precision == "auto" else (precision,):
        for suffix in PRECISIONS[chosen]:
            for decoder in decoders:
                wanted = {name: known.get(f"{name}{suffix}.onnx") for name in (*needed, *decoder)}
                if all(wanted.values()):
                    return {name: file for name, file in wanted.items() if file}
    raise ModelError(_missing(known, layouts, precision))


def files_in(path: Path) -> list[str]:
    """Return the files in a folder and in its folder onnx, relative to it with "/"."""
    inner = [path, path / "onnx"]
    return [file.relative_to(path).as_posix() for folder in inner if folder.is_dir() for file in folder.iterdir()]


def _missing(known: dict[str, str], layouts: Sequence[Sequence[str]], precision: str) -> str:
    names = {name for layout in layouts for name in layout}
    here = [
        kind
        for kind, suffixes in PRECISIONS.items()
        if any(f"{name}{suffix}.onnx" in known for name in names for suffix in suffixes)
    ]
    if precision != "auto" and here and precision not in here:
        return f"has no graphs of precision {precision}; it has {', '.join(here)}"
    suffix = "" if precision == "auto" else PRECISIONS[precision][0]
    wanted = [f"{name}{suffix}.onnx" for name in (*layouts[0], *layouts[1])]
    lacking = [name for name in wanted if name not in known]
    return f"lacks {', '.join(lacking)}; get the model again, or export it to ONNX"


def with_data(files: Iterable[str], graphs: Iterable[str]) -> list[str]:
    """Return the `graphs` and those of the `files` that hold their weights."""
    chosen = list(graphs)
    stems = {graph.removesuffix(".onnx") for graph in chosen}
    return [*chosen, *(name for name in files if _DATA.search(name) and _DATA.sub("", name) in stems)]


class Graphs:
    """The graphs of a folder, opened when they are asked for."""

    def __init__(self, folder: Path, files: dict[str, str], threads: int | None, device: str = CPU) -> None:
        self._folder, self._files, self._threads, self._device = folder, files, threads, device

    def open(self, name: str) -> ort.InferenceSession:
        """Open a graph by its name without suffixes. Raises ModelError."""
        from captionkit.inference.onnx_runtime import onnxruntime, open_session

        path = self._folder / self._files[name]
        try:
            return open_session(str(path), self._threads, self._device)
        except Exception as error:  # onnxruntime's exceptions have no common base class
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            newer = re.search(r"opset|IR version", reason, re.IGNORECASE)
            version = onnxruntime().__version__
            way_out = (
                f"it needs a newer ONNX Runtime than {version}: run `pip install -U onnxruntime`"
                if newer
                else "get the model again"
            )
            raise ModelError(f"{path}: ONNX Runtime cannot run it ({reason:.200}); {way_out}") from None

    def decoder(self) -> tuple[ort.InferenceSession, ort.InferenceSession | None]:
        """Open the decoder: one graph for all steps, or one for the first and one for the others."""
        if "decoder_model_merged" in self._files:
            return self.open("decoder_model_merged"), None
        return self.open("decoder_model"), self.open("decoder_with_past_model")
