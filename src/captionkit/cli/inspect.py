"""`captionkit inspect`: the contents of a dataset, a model folder or a run folder, and its problems."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from captionkit.bulk.status import inspect_output, is_bulk_output
from captionkit.data.layouts import inspect_dataset, open_dataset
from captionkit.data.run_files import BEST, LAST, METRICS, RECIPE, REPORT, read_metrics, read_rows
from captionkit.errors import CaptionkitError, ModelError
from captionkit.inference import model_folder
from captionkit.inference.model_folder import parameters_of
from captionkit.utils import output_checks, paths


class Inspection(Protocol):
    """The result of an inspection: text, JSON values, and whether everything is in order."""

    @property
    def sound(self) -> bool: ...

    def to_dict(self) -> dict[str, Any]: ...


def inspect_path(path: str, *, layout: str | None = None, check_images: bool = False) -> Inspection:
    """Inspect whatever is at `path`. Raises CaptionkitError if captionkit does not recognise it."""
    place = Path(path)
    there = paths.exists(path)
    if paths.is_file(place / RECIPE):
        return inspect_run(place)
    if layout is None and is_bulk_output(path):
        return inspect_output(path)
    if path == "bundled" or paths.is_file(place / model_folder.CONFIG) or ("/" in path and not there):
        return inspect_model(model_folder.open_model(path))
    return inspect_dataset(open_dataset(place, layout=layout), check_images=check_images)


@dataclass(frozen=True)
class ModelReport:
    """A model folder in numbers."""

    path: str
    encoder: str
    decoder: str
    parameters: int
    vocabulary: int
    image: str
    grid: tuple[int, int]
    decoding: dict[str, Any]
    files: dict[str, int]
    provenance: dict[str, Any]
    int8: dict[str, Any]
    problems: list[str]
    #: of an imported model: its id, revision and licence
    source: dict[str, str]

    @property
    def sound(self) -> bool:
        """Return whether every file is as it was saved."""
        return not self.problems

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON values."""
        return asdict(self)

    def __str__(self) -> str:
        facts = self.provenance
        lines = [
            f"model       {self.path}",
            f"encoder     {self.encoder}",
            f"decoder     {self.decoder}",
            f"parameters  {f'{self.parameters / 1e6:.2f} M' if self.parameters else 'unknown without weights'}",
            f"vocabulary  {self.vocabulary} tokens",
            f"image       {self.image}, {f'grid {self.grid[0]} x {self.grid[1]}' if all(self.grid) else 'no maps'}",
            f"decoding    {', '.join(f'{name} {value}' for name, value in self.decoding.items())}",
        ]
        if self.source:
            lines.append(f"source      {', '.join(f'{name} {value}' for name, value in self.source.items())}")
        lines += [f"file        {name:18} {size / 1e6:8.2f} MB" for name, size in self.files.items()]
        if self.int8:
            lines += [f"in 8 bits   {name}: {_in_int8(graph)}" for name, graph in self.int8["graphs"].items()]
        if "val_loss" in facts:
            lines.append(f"made by     {facts['command']}")
            cider = f"CIDEr-D {facts['val_cider']:.4f}, " if "val_cider" in facts else ""
            loss = f"validation loss {facts['val_loss']:.4f} nats per word"
            minutes = f", {facts['minutes']} minutes" if "minutes" in facts else ""
            lines.append(f"            {cider}{loss}{minutes}")
        lines += [f"problem     {problem}" for problem in self.problems] or ["problems    none; every file is as saved"]
        return "\n".join(lines)


def _in_int8(graph: dict[str, Any]) -> str:
    units, spared = graph["units"], len(graph["spared"])
    return (
        f"{units - spared} of {units} convolutions and matrix products, {graph['nats_per_word']:.5f} nats per word lost"
    )


def inspect_model(folder: model_folder.ModelFolder) -> ModelReport:
    """Check every file of a model folder and count its parameters."""
    problems = []
    for name in folder.config["files"]:
        try:
            folder.read(name)
        except ModelError as error:
            problems.append(str(error))
    if not set(folder.graphs.values()) <= set(folder.config["files"]):
        problems.append("no ONNX graphs, so it cannot caption; make them with `captionkit export`")
    architecture, p = folder.section("architecture"), folder.preprocessing
    return ModelReport(
        path=str(folder.path),
        encoder=str(architecture["encoder"]["name"]),
        decoder=str(architecture["decoder"]["name"]),
        parameters=parameters_of(folder.path / model_folder.WEIGHTS)
        or sum(architecture[part].get("parameters", 0) for part in ("encoder", "decoder")),
        vocabulary=len(folder.tokenizer),
        image=f"{p.height} x {p.width} pixels, {p.fit}, {p.interpolation}",
        grid=folder.grid,
        decoding=folder.decoding.to_dict(),
        files={name: entry["bytes"] for name, entry in folder.config["files"].items()},
        provenance=dict(folder.config.get("provenance", {})),
        int8=dict(folder.config.get("int8", {})),
        problems=problems,
        source=dict(folder.config.get("source", {})),
    )


@dataclass(frozen=True)
class RunReport:
    """The progress of a run."""

    path: str
    steps: int
    epochs: float
    train_loss: float | None
    best_loss: float | None
    best_cider: float | None
    best_clipscore: float | None
    best_epoch: float | None
    evaluations: int
    resumable: bool
    model: bool
    report: bool

    @property
    def sound(self) -> bool:
        """Return whether the run has left a model to caption with or a checkpoint to resume from."""
        return self.resumable or self.model

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON values."""
        return asdict(self)

    def __str__(self) -> str:
        best = "none yet"
        if self.best_loss is not None:
            cider = "" if self.best_cider is None else f"CIDEr-D {self.best_cider:.4f}, "
            clip = "" if self.best_clipscore is None else f"CLIPScore {self.best_clipscore:.4f}, "
            best = f"{clip}{cider}{self.best_loss:.4f} nats per word, epoch {self.best_epoch:.2f}"
        remedy = f"none yet; `captionkit report {self.path}` writes it"
        return "\n".join(
            [
                f"run         {self.path}",
                f"done        {self.steps} steps, {self.epochs:.2f} epochs, {self.evaluations} evaluations",
                f"best        {best}",
                f"model       {'best/' if self.model else 'none yet'}",
                f"resumable   {'yes, with --resume' if self.resumable else 'no checkpoint yet'}",
                f"report      {'report.html' if self.report else remedy}",
            ]
        )


def inspect_run(path: Path) -> RunReport:
    """Read the metrics of a run folder."""
    rows = read_rows(path / METRICS)
    evaluations = [row for row in rows if row["kind"] == "eval"]
    trained = [row.get("loss") for row in rows if row["kind"] == "train"]
    best = next((row for row in reversed(evaluations) if row["best"]), None)
    last: dict[str, Any] = rows[-1] if rows else {"step": 0, "epoch": 0.0}
    return RunReport(
        path=str(path),
        steps=last["step"],
        epochs=last["epoch"],
        train_loss=trained[-1] if trained else None,
        best_loss=best.get("val_loss") if best else None,
        best_cider=best.get("cider") if best else None,
        best_clipscore=best.get("clipscore") if best else None,
        best_epoch=best["epoch"] if best else None,
        evaluations=len(evaluations),
        resumable=paths.is_file(path / LAST),
        model=paths.is_file(path / BEST / model_folder.CONFIG),
        report=paths.is_file(path / REPORT),
    )


def plot_runs(runs: Sequence[str], output: Path) -> None:
    """Draw the curves of one run folder, or of several in one figure. Raises CaptionkitError for any other folder."""
    from captionkit.viz.curves import compare_curves, draw_curves

    if output.suffix.lower() != ".png":
        raise CaptionkitError(f"{output}: curves are drawn as PNG; end the name in .png")
    output_checks.check_output_file(output, output_checks.is_drawing)
    rows = {name: read_metrics(Path(name)) for name in dict.fromkeys(runs)}
    if len(rows) == 1:
        draw_curves(next(iter(rows.values())), output)
        return
    names = [paths.real(name).name for name in rows]
    shown = names if len(set(names)) == len(names) else list(rows)
    compare_curves(dict(zip(shown, rows.values(), strict=True)), output)
