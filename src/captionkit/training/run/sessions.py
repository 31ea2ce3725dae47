"""sessions.jsonl: a record of each session of a run. A session is one process's stretch of a run, start to end.

The file has one line per session. It is rewritten atomically when a session starts, with every checkpoint and when it
ends, so that a killed session still leaves when it was last alive and how its time was spent.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from captionkit.data.layouts import CaptionSet
from captionkit.utils import atomic_write

SESSIONS = "sessions.jsonl"
#: its earlier name, read if a run has no other
EARLIER_SESSIONS = "sittings.jsonl"
#: prefix of the `end` of a session that completed the run
DONE = "done: "
#: most reasons that are stored for skipped items; beyond that only their number is
_KEPT = 200


@dataclass
class Session:
    """One session. Times are UTC, in ISO 8601; a killed session has no `end`."""

    command: str
    #: the working directory, to which paths in the command are relative
    folder: str = ""
    started: str = ""
    #: when it was last known to be alive
    seen: str = ""
    #: how it ended: "done: " and why, "interrupted", or "failed: " and why
    end: str = ""
    first_step: int = 0
    step: int = 0
    epoch: float = 0.0
    #: seconds by activity; see `Timer`
    seconds: dict[str, float] = field(default_factory=dict)
    processes: int = 1
    machine: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    #: commit, and whether files differ from it; empty if captionkit does not run from a checkout
    source: dict[str, Any] = field(default_factory=dict)
    #: dataset name and locations, and per split its name, number of images and captions, and fingerprint
    data: dict[str, Any] = field(default_factory=dict)
    #: what was skipped and why: problems of the dataset, images that could not be read
    left_out: dict[str, Any] = field(default_factory=dict)
    #: the trackers' ids of the run
    trackers: dict[str, str] = field(default_factory=dict)

    @property
    def done(self) -> bool:
        """Whether the session completed the run."""
        return self.end.startswith(DONE)


def now() -> str:
    """Return the current time in the format of session records."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def facts_of(places: Sequence[Path], train: CaptionSet, val: CaptionSet) -> dict[str, Any]:
    """Return the facts about the data that a session records."""
    splits = {
        what: {
            "split": captions.split,
            "images": len(captions),
            "captions": sum(len(example.captions) for example in captions),
            "fingerprint": captions.fingerprint(),
        }
        for what, captions in (("train", train), ("val", val))
    }
    return {"name": train.name, "places": [str(place.absolute()) for place in places], **splits}


def shortened(reasons: Iterable[str]) -> dict[str, Any]:
    """Return `reasons` as a session records them: their number, and the first of them."""
    listed = sorted(reasons)
    return {"count": len(listed), "first": listed[:_KEPT]}


def write_sessions(run: Path, sessions: Sequence[Session]) -> None:
    """Write the file atomically. Raises CaptionkitError if it cannot be written."""
    atomic_write.write_text(run / SESSIONS, "".join(json.dumps(asdict(session)) + "\n" for session in sessions))


def read_sessions(run: Path) -> list[Session]:
    """Read the sessions of a run; empty if the file does not exist (in older runs). Invalid lines are skipped."""
    try:
        path = run / SESSIONS if (run / SESSIONS).exists() else run / EARLIER_SESSIONS
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return []
    found = []
    kinds: dict[str, type] = {name: type(value) for name, value in asdict(Session("")).items()}
    for line in lines:
        try:
            values = json.loads(line)
        except ValueError:
            continue
        if isinstance(values, dict) and isinstance(values.get("command"), str):
            known: dict[str, Any] = {
                name: value for name, value in values.items() if name in kinds and isinstance(value, kinds[name])
            }
            found.append(_present(Session(**known)))
    return found


def _present(session: Session) -> Session:
    """Return the session of an earlier version with the names of today in its facts about the data."""
    for split in session.data.values():
        if isinstance(split, dict) and "pictures" in split:
            split["images"] = split.pop("pictures")
    return session
