"""The session log of a run: the main process's record of the current session (see `sessions`)."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from accelerate import Accelerator

from captionkit.errors import CaptionkitError
from captionkit.training.run.environment import PACKAGES, machine, source_state
from captionkit.training.run.progress import Progress
from captionkit.training.run.sessions import Session, facts_of, now, read_sessions, shortened, write_sessions
from captionkit.training.run.timer import Timer
from captionkit.training.run_setup import Setup
from captionkit.utils.provenance import versions


class SessionLog:
    """The sessions of the run in the folder `path`; the current one is last if there is something left to do."""

    def __init__(self, path: Path, setup: Setup) -> None:
        self.path, self.setup = path, setup
        self.timer = Timer()
        self.sessions: list[Session] = []
        #: whether the current session has something to do
        self.works = False
        self._broken: set[str] = set()
        self._started = now()
        self._steps_per_epoch = 1

    def open(self, *, steps_per_epoch: int) -> None:
        """Read the earlier sessions."""
        self.sessions, self._steps_per_epoch = read_sessions(self.path), steps_per_epoch

    @property
    def known(self) -> dict[str, str]:
        """The trackers' ids of the run."""
        return {name: known for session in self.sessions for name, known in session.trackers.items()}

    def begin(self, command: str, progress: Progress, accelerator: Accelerator, trackers: dict[str, str]) -> None:
        """Start the record of the current session. Raises CaptionkitError if the folder cannot be written."""
        session = Session(
            command,
            folder=str(Path.cwd()),
            started=self._started,
            first_step=progress.step,
            processes=accelerator.num_processes,
            machine=machine(accelerator.device),
            versions=versions(*PACKAGES),
            source=source_state(),
            data=facts_of([source.path for source in self.setup.sources], self.setup.train, self.setup.val),
            trackers=trackers,
        )
        self.sessions.append(session)
        self.works = True
        self.save(progress)

    def save(self, progress: Progress, broken: Iterable[str] = ()) -> None:
        """Write the session's progress, where its time went, and unreadable images, to which `broken` is added."""
        if not self.works:
            return
        session = self.sessions[-1]
        self._broken.update(broken)
        session.seen, session.step, session.epoch = now(), progress.step, progress.step / self._steps_per_epoch
        session.seconds = {what: round(seconds, 3) for what, seconds in self.timer.seconds.items()}
        problems = (
            f"{problem.kind}: {problem.where} ({problem.detail})"
            for source in self.setup.sources
            for problem in source.problems
        )
        session.left_out = {"problems": shortened(problems), "broken": shortened(self._broken)}
        write_sessions(self.path, self.sessions)

    def end(self, how: str, progress: Progress, broken: Iterable[str] = ()) -> None:
        """Write the end of the session; errors are ignored, so a full disk loses only this entry."""
        if self.sessions:
            self.sessions[-1].end = how
        with suppress(CaptionkitError):
            if self.works:
                self.save(progress, broken)
            elif self.sessions:
                write_sessions(self.path, self.sessions)
