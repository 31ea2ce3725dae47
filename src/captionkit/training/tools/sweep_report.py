"""Report of a sweep: report.html, report.md, trials.png and best.toml, rewritten after each trial."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from captionkit import __version__
from captionkit.training.config.recipe import Recipe, change_recipe
from captionkit.training.tools.search_space import NAME, short_name
from captionkit.training.tools.sweep_study import FIRST, TRIALS, Study
from captionkit.utils import atomic_write, paths
from captionkit.viz.document import Block, BulletList, Code, Document, Drawings, Section, Table, TableRow
from captionkit.viz.document_html import document_html
from captionkit.viz.document_markdown import document_markdown
from captionkit.viz.learning_rates import draw_trials

PAGE, TEXT, FIGURE, RECIPE = "report.html", "report.md", "trials.png", "best.toml"
#: names of trial states in the report, in display order
_STATES = {
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "ended early",
    TrialState.RUNNING: "running",
    TrialState.FAIL: "failed",
}
_ALT = "CIDEr-D of each trial against the decoder's peak learning rate, by optimizer"


def write_report(study: Study, data: Path) -> None:
    """Update the report of a sweep, and best.toml once a trial is complete."""
    trials, best, folder = _ranked(study), study.best(), study.folder
    sections: list[Section] = []

    def tell(heading: str, block: Block) -> None:
        sections.append(Section(heading, [block]))

    if best is not None:
        recipe = _recipe_of(study, best)
        atomic_write.write_text(folder / RECIPE, recipe.to_toml())
        command = shlex.join(["captionkit", "train", str(data), "--recipe", str(folder / RECIPE), "--output", "RUN"])
        tell("Train with the best", Code(command))
    if any("best" in trial.user_attrs for trial in trials):
        svg = draw_trials([_point(study, trial) for trial in trials], study.importance(), folder / FIGURE)
        tell("What they reached", Drawings([("What they reached", _ALT, svg)], FIGURE))
    tell("Trials", _table(study, trials))
    failed = [trial for trial in trials if trial.state == TrialState.FAIL]
    if failed:
        tell("Failures", BulletList([f"{trial.number:04d}: {trial.user_attrs['why']}" for trial in failed]))
    if best is not None:
        tell(f"Recipe of trial {best.number:04d} ({RECIPE})", Code(recipe.to_toml().rstrip()))
    title, made_by = f"Sweep over {paths.real(data).name}", f"Written by captionkit {__version__}."
    document = Document(title, _note(study, trials), _figures(trials, best), sections, made_by)
    atomic_write.write_text(folder / PAGE, document_html(document))
    atomic_write.write_text(folder / TEXT, document_markdown(document))


def _ranked(study: Study) -> list[FrozenTrial]:
    """Return the trials that were started: complete ones, best first; then pruned, running and failed ones."""
    order = list(_STATES)
    begun = [trial for trial in study.trials(*order) if "fields" in trial.user_attrs]
    return sorted(begun, key=lambda trial: (order.index(trial.state), -_best(trial, "cider"), _best(trial, "val_loss")))


def _best(trial: FrozenTrial, name: str) -> float:
    return trial.user_attrs["best"][name] if "best" in trial.user_attrs else 0.0


def _recipe_of(study: Study, trial: FrozenTrial) -> Recipe:
    return change_recipe(study.recipe, trial.user_attrs["fields"], f"trial {trial.number}")


def _point(study: Study, trial: FrozenTrial) -> dict[str, Any]:
    fields = trial.user_attrs["fields"]
    return {
        "optimizer": fields.get(NAME, study.recipe.optimizer.name),
        "lr_decoder": fields.get("optimizer.lr_decoder", study.recipe.optimizer.lr_decoder),
        "cider": _best(trial, "cider") if "best" in trial.user_attrs else None,
        "pruned": trial.state == TrialState.PRUNED,
    }


def _table(study: Study, trials: Sequence[FrozenTrial]) -> Table:
    head = ["trial", "rank", "state", "CIDEr-D", "loss", "at epoch", "minutes"]
    head += [short_name(name) for name in study.space]
    rows = []
    for rank, trial in enumerate(trials, 1):
        seen = "best" in trial.user_attrs
        scores = [
            f"{_best(trial, name):{form}}" for name, form in (("cider", ".3f"), ("val_loss", ".3f"), ("epoch", ".4g"))
        ]
        fields = [_spelt(trial.user_attrs["fields"].get(name)) for name in study.space]
        complete = trial.state == TrialState.COMPLETE
        values = [
            str(rank) if complete else "",
            _STATES[trial.state],
            *(scores if seen else ["", "", ""]),
            f"{trial.user_attrs.get('minutes', 0):.1f}" if seen else "",
            *fields,
        ]
        rows.append(TableRow(f"{trial.number:04d}", values))
    return Table(head, rows)


def _spelt(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _figures(trials: Sequence[FrozenTrial], best: FrozenTrial | None) -> list[tuple[str, str, str]]:
    counts = Counter(_STATES[trial.state] for trial in trials)
    figures = [(name, str(counts[name]), "trials") for name in _STATES.values() if counts[name]]
    reached = [("best CIDEr-D", f"{best.value:.3f}", f"of trial {best.number:04d}")] if best is not None else []
    return [*reached, *figures]


def _note(study: Study, trials: Sequence[FrozenTrial]) -> str:
    recipe = study.recipe
    looked = f"{recipe.data.val_images} images" if recipe.data.val_images else "all images"
    every = "each epoch" if recipe.trainer.eval_every == 1 else f"every {recipe.trainer.eval_every:g} epochs"
    return (
        f"Trials: {len(trials)}. Each is a run in {TRIALS}/, evaluated {every} on {looked} of the validation split by "
        "the CIDEr-D of its own captions (beam 3); the best evaluation of each counts. Loss in nats per word. "
        f"Once {FIRST} are complete, a trial whose best is below the median of the complete ones at "
        "the same evaluation is ended early. All models but the best trial's are removed; recipes and curves are kept "
        "(`captionkit plot` compares them). One seed each: small differences mean nothing, and the importance of "
        "fields from a few trials is a hint."
    )
