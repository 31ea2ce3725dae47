"""Requests that wait for the model together go through it together."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(eq=False)
class _Waiting(Generic[Key, Item, Result]):
    key: Key
    item: Item
    future: asyncio.Future[Result] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class Batching(Generic[Key, Item, Result]):
    """One worker thread, and the items that wait for it; all else happens in the event loop's thread.

    An item that finds the worker idle is taken at once. While it works, items gather, and the next batch is the oldest
    of them with all others of its key, as many as `limit` allows for that key. One whose caller has gone is left out.
    """

    def __init__(self, work: Callable[[Key, Sequence[Item]], Sequence[Result]], limit: Callable[[Key], int]) -> None:
        self._work, self._limit = work, limit
        self._waiting: deque[_Waiting[Key, Item, Result]] = deque()
        self._arrived = asyncio.Event()

    async def submit(self, key: Key, item: Item) -> Result:
        """What `work` makes of the item, or the exception that it raises for the batch."""
        waiting: _Waiting[Key, Item, Result] = _Waiting(key, item)
        self._waiting.append(waiting)
        self._arrived.set()
        return await waiting.future

    async def run(self) -> None:
        """Work until cancelled."""
        with ThreadPoolExecutor(1, thread_name_prefix="captionkit-model") as thread:
            while True:
                await self._arrived.wait()
                batch = self._take()
                if batch:
                    await self._finish(batch, thread)
                else:
                    self._arrived.clear()

    def _take(self) -> list[_Waiting[Key, Item, Result]]:
        batch: list[_Waiting[Key, Item, Result]] = []
        others: deque[_Waiting[Key, Item, Result]] = deque()
        for waiting in self._waiting:
            if waiting.future.done():  # its caller no longer waits
                continue
            if not batch or (waiting.key == batch[0].key and len(batch) < self._limit(waiting.key)):
                batch.append(waiting)
            else:
                others.append(waiting)
        self._waiting = others
        return batch

    async def _finish(self, batch: list[_Waiting[Key, Item, Result]], thread: ThreadPoolExecutor) -> None:
        items = [waiting.item for waiting in batch]
        loop = asyncio.get_running_loop()
        try:
            results = await loop.run_in_executor(thread, self._work, batch[0].key, items)
        except Exception as error:
            for waiting in batch:
                if not waiting.future.done():
                    waiting.future.set_exception(error)
            return
        for waiting, result in zip(batch, results, strict=True):
            if not waiting.future.done():
                waiting.future.set_result(result)
