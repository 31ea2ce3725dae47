"""Dynamic batching: requests that wait for the model at the same time are processed together."""

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


class Batcher(Generic[Key, Item, Result]):
    """A queue of items for one worker thread; everything else runs in the event loop's thread.

    If the worker is idle, an item is processed at once. While it is busy, items queue up. The next batch is the oldest
    item and all others with the same key, up to `limit` of that key. Items whose caller was cancelled are dropped.
    """

    def __init__(self, work: Callable[[Key, Sequence[Item]], Sequence[Result]], limit: Callable[[Key], int]) -> None:
        self._work, self._limit = work, limit
        self._waiting: deque[_Waiting[Key, Item, Result]] = deque()
        self._arrived = asyncio.Event()

    async def submit(self, key: Key, item: Item) -> Result:
        """Queue an item and return the result of `work` for it, or raise the exception that `work` raised."""
        waiting: _Waiting[Key, Item, Result] = _Waiting(key, item)
        self._waiting.append(waiting)
        self._arrived.set()
        return await waiting.future

    async def run(self) -> None:
        """Process batches until cancelled."""
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
            if waiting.future.done():  # its caller was cancelled
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
