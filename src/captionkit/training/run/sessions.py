"""sittings.jsonl: what a run's folder knows of each sitting, from its start to its end, for those who come later.

A line each. The file is written anew, atomically, when a sitting begins, with every checkpoint and at its end, so that
one that was killed has left when it was last alive and where its time had gone.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from captionkit.data.layouts import CaptionSet
from captionkit.utils import files

SITTINGS = "sittings.jsonl"
#: how the end begins of a sitting after which nothing is left to do
DONE = "done: "
#: reasons that are kept of what was left out; beyond them, how many there are
_KEPT = 200


@dataclass
class Session:
    """One sitting. Times are UTC, in ISO 8601; a sitting that was killed has no `end`."""

    command: str
    #: the working folder, from which the paths of the command count
    folder: str = ""
    started: str = ""
    #: when it was last known to be alive
    seen: str = ""
    #: how it ended: "done: " and why, "interrupted", or "failed: " and why
    end: str = ""
    first_step: int = 0
    step: int = 0
    epoch: float = 0.0
    #: seconds by what they were spent on; see `clock`
    seconds: dict[str, float] = field(default_factory=dict)
    processes: int = 1
    machine: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    #: commit, and whether files differ from it; empty where captionkit does not run from a checkout
    source: dict[str, Any] = field(default_factory=dict)
    #: name, where its parts lie, and by split its name, images, captions and fingerprint
    data: dict[str, Any] = field(default_factory=dict)
    #: what was left out and why: problems of the dataset, images that could not be read
    left_out: dict[str, Any] = field(default_factory=dict)
    #: the ids by which trackers know the run
    trackers: dict[str, str] = field(default_factory=dict)

    @property
    def done(self) -> bool:
        """Whether nothing was left to do after it."""
        return self.end.startswith(DONE)


def now() -> str:
    """The time, as a sitting keeps it."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def facts_of(places: Sequence[Path], train: CaptionSet, val: CaptionSet) -> dict[str, Any]:
    """What a sitting keeps of the data."""
    splits = {
        what: {
            "split": captions.split,
            "pictures": len(captions),
            "captions": sum(len(example.captions) for example in captions),
            "fingerprint": captions.fingerprint(),
        }
        for what, captions in (("train", train), ("val", val))
    }
    return {"name": train.name, "places": [str(place.absolute()) for place in places], **splits}


def shortened(reasons: Iterable[str]) -> dict[str, Any]:
    """`reasons` as a sitting keeps them: how many there are, and the first of them."""
    listed = sorted(reasons)
    return {"count": len(listed), "first": listed[:_KEPT]}


def write_sessions(run: Path, sittings: Sequence[Session]) -> None:
    """Write the file atomically. Raises CaptionkitError where it cannot be written."""
    files.write_text(run / SITTINGS, "".join(json.dumps(asdict(sitting)) + "\n" for sitting in sittings))


def read_sessions(run: Path) -> list[Session]:
    """The sittings of a run; none where it was made before there was such a file. What is no sitting is passed over."""
    try:
        lines = (run / SITTINGS).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return []
    found = []
    kinds = {name: type(value) for name, value in asdict(Session("")).items()}
    for line in lines:
        try:
            values = json.loads(line)
        except ValueError:
            continue
        if isinstance(values, dict) and isinstance(values.get("command"), str):
            known = {name: value for name, value in values.items() if isinstance(value, kinds.get(name, ()))}
            found.append(Session(**known))
    return found
