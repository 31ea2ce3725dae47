"""How full the service is: images and uploads of one process, or of several that keep the same bounds."""

from __future__ import annotations

import os
from collections.abc import Collection
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from captionkit.errors import CaptionkitError

#: processes that can share the bounds
ROWS = 128


class SharedCount:
    """A number to which each process adds in a cell of its own, so that what a dead one held can be taken off.

    The cells need no lock, which a process that is killed would keep: each has one writer.
    """

    def __init__(self, cells: Any = None, row: int = 0) -> None:
        """Take the cells of all processes, a writable sequence of whole numbers, and the row of this one's."""
        self._cells, self._row = [0] if cells is None else cells, row

    @property
    def total(self) -> int:
        """Return the sum over all processes."""
        return sum(self._cells)

    def add(self, amount: int, most: int) -> bool:
        """Add an amount and return True, unless the total would exceed `most`.

        Of processes that come at the same moment, each may find the other's amount there and be refused. The total
        never stays above `most`, since each looks after it has added.
        """
        self._cells[self._row] += amount
        if self.total <= most:
            return True
        self.remove(amount)
        return False

    def remove(self, amount: int) -> None:
        """Take off an amount that was added."""
        self._cells[self._row] -= amount


class Occupancy:
    """What this process holds of the service's bounds, and what all processes do together."""

    def __init__(self, table: WorkerTable | None = None, row: int = 0) -> None:
        self._table = table
        #: images that wait or are at work
        self.images = SharedCount(table and table.images, row)
        #: bytes of uploads
        self.uploads = SharedCount(table and table.uploads, row)

    @property
    def processes(self) -> list[int]:
        """Return the ids of the processes that share the bounds."""
        return self._table.processes() if self._table else [os.getpid()]

    @property
    def metrics_folder(self) -> Path | None:
        """Return the folder in which they leave their metrics; None for a process by itself."""
        return self._table.folder if self._table else None


@dataclass(frozen=True)
class WorkerTable:
    """A row for each process in shared memory. Made by the process that starts them, and passed on to them."""

    folder: Path
    ids: Any
    images: Any
    uploads: Any

    @classmethod
    def create(cls, folder: Path) -> WorkerTable:
        """Create an empty table whose processes may write to `folder`."""
        return cls(folder, *(get_context("spawn").RawArray("q", ROWS) for _ in range(3)))

    def processes(self) -> list[int]:
        """Return the ids of the processes that have a row."""
        return [process for process in self.ids if process]

    def claim(self) -> Occupancy:
        """Take a free row for this process. Raises CaptionkitError if there is none."""
        import filelock

        with filelock.FileLock(self.folder / "rows.lock"):  # the system drops it with the process
            row = next((row for row, process in enumerate(self.ids) if not process), None)
            if row is None:
                raise CaptionkitError(f"more than {ROWS} processes; use fewer --workers")
            self.ids[row] = os.getpid()
        return Occupancy(self, row)

    def keep(self, living: Collection[int | None]) -> None:
        """Free the rows of all other processes, which have ended. For the process that has started them."""
        for row, process in enumerate(self.ids):
            if process and process not in living:
                self.images[row] = self.uploads[row] = 0
                self.ids[row] = 0
