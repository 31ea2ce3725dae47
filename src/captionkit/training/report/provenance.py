"""Report sections on how a run was made: data, sessions, machine, versions and recipe."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from captionkit.training.config.recipe import recipe_fields
from captionkit.training.report.formatting import minutes, moment, same_or_each
from captionkit.training.report.run_data import RunData
from captionkit.training.run.sessions import DONE, Session
from captionkit.viz.document import Block, BulletList, Code, Fold, Paragraph, Table, TableRow

_NAMED = 20  # most skipped items that are listed


def data(run_data: RunData) -> list[Block]:
    """Return the size of the dataset and what was left out of it."""
    known = run_data.data
    rows = []
    for what, meaning in (("train", "what the model was trained on"), ("val", "what it was evaluated on")):
        split = known.get(what, {})
        if split:
            counts = [f"{split[name]:,}" if name in split else "unknown" for name in ("images", "captions")]
            rows.append(
                TableRow(
                    str(split.get("split", what)), [*counts, split.get("fingerprint", "")[:12] or "unknown"], meaning
                )
            )
    blocks: list[Block] = [
        Paragraph(
            f"Dataset {known.get('name') or 'unknown'}. The fingerprint is the beginning of a SHA-256 of ids, file "
            "names and captions: equal fingerprints, equal data."
        )
    ]
    if rows:
        blocks.append(Table(["split", "images", "captions", "fingerprint"], rows))
    left_out = run_data.sessions[-1].left_out if run_data.sessions else {}
    for what, said in (
        ("problems", "problems in the dataset"),
        ("broken", "images that cannot be read"),
    ):
        blocks += _left_out(left_out.get(what, {}), said)
    if run_data.sessions and len(blocks) <= 2:
        blocks.append(Paragraph("Nothing was left out."))
    return blocks


def _left_out(reasons: Mapping[str, Any], said: str) -> list[Block]:
    count, named = reasons.get("count", 0), reasons.get("first", [])[:_NAMED]
    if not count:
        return []
    more = [f"and {count - len(named):,} more"] if count > len(named) else []
    return [Paragraph(f"Left out, {said}: {count:,}", warning=True), BulletList([*named, *more])]


def sessions(run_data: RunData) -> list[Block]:
    """Return the sessions with their commands."""
    if not run_data.sessions:
        command = run_data.provenance.get("command", "")
        return [Code(command)] if command else [Paragraph("The run has not left what made it.")]
    rows, last = [], len(run_data.sessions)
    for place, session in enumerate(run_data.sessions, 1):
        going = run_data.live and place == last and not session.end
        end = "under way" if going else session.end.removeprefix(DONE) or "killed, as it said nothing"
        steps = f"{session.first_step:,} to {session.step:,}"
        spent = minutes(sum(session.seconds.values()))
        rows.append(TableRow(f"{place}", [steps, spent, end], f"{moment(session.started)} to {moment(session.seen)}"))
    blocks: list[Block] = [Table(["session", "steps", "time", "how it ended"], rows, explained="when")]
    if last > 1:
        note = "A session resumes from the last checkpoint, so the steps after it were made, and count, once more."
        blocks.append(Paragraph(note))
    for folder, commands in _by_folder(run_data.sessions):
        blocks += [Paragraph(f"In the folder {folder}:"), Code("\n".join(commands))]
    return blocks


def _by_folder(sessions: Any) -> list[tuple[str, list[str]]]:
    """Group consecutive commands that were started in the same folder."""
    found: list[tuple[str, list[str]]] = []
    for session in sessions:
        if not found or found[-1][0] != session.folder:
            found.append((session.folder, []))
        found[-1][1].append(session.command)
    return found


def made_with(run_data: RunData) -> list[Block]:
    """Return versions and machine, over all sessions."""
    if not run_data.sessions:
        rows = [TableRow(name, [str(value)]) for name, value in run_data.provenance.get("versions", {}).items()]
        return [Table(["what", "version"], rows)] if rows else [Paragraph("The run has not left what made it.")]
    sat = run_data.sessions
    names = dict.fromkeys(name for session in sat for name in session.versions)
    versions = [TableRow(name, [same_or_each([session.versions.get(name, "") for session in sat])]) for name in names]
    facts = (
        (
            "device",
            "what the steps were computed on",
            lambda s: s.machine.get("accelerator") or s.machine.get("device", ""),
        ),
        ("processor", "as the system names it", lambda s: s.machine.get("processor", "")),
        ("cores", "that the run might use, and threads that torch took", _cores),
        ("processes", "that trained together", lambda s: str(s.processes)),
        ("system", "the operating system", lambda s: s.machine.get("system", "")),
        ("source", "the commit of captionkit's code, where it runs from a checkout", _source),
    )
    machine = [
        TableRow(name, [same_or_each([str(tell(session)) for session in sat])], said) for name, said, tell in facts
    ]
    return [
        Table(["machine", "value"], [row for row in machine if row.values[0]]),
        Table(["package", "version"], versions),
    ]


def _cores(session: Session) -> str:
    return f"{session.machine.get('cores', 'unknown')}, {session.machine.get('threads', 'unknown')}"


def _source(session: Session) -> str:
    if not session.source:
        return ""
    changed = ", with changes that are not committed" if session.source.get("changed") else ""
    return f"{session.source.get('commit', '')[:12]}{changed}"


def recipe(run_data: RunData) -> list[Block]:
    """Return the fields of the recipe that differ from the default, and the full recipe, collapsed."""
    rows = []
    for name, leaf in recipe_fields():
        value = run_data.recipe.value(name)
        if value != leaf.default:
            rows.append(TableRow(name, [_value(value), _value(leaf.default)], leaf.metadata["help"]))
    blocks: list[Block] = [Paragraph("What differs from the default." if rows else "All is as by default.")]
    if rows:
        blocks.append(Table(["field", "value", "default"], rows))
    return [*blocks, Fold("The whole recipe", [Code(run_data.recipe.to_toml())])]


def _value(value: Any) -> str:
    if isinstance(value, tuple):
        return ", ".join(value) or "none"
    return str(value).lower() if isinstance(value, bool) else str(value) or "none"
