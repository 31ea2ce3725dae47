"""How requests that come together share the model, and what happens to those that are too many or too late."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="the extra `serve` is not installed")
pytest.importorskip("httpx2")

from starlette.testclient import TestClient

from captionkit.errors import CaptionkitError, ImageError
from captionkit.inference.captioner import Outcome
from captionkit.serve.app import create_app
from captionkit.serve.batching import Batcher
from captionkit.serve.errors import BusyError, RequestTimeoutError
from captionkit.serve.service import Service
from captionkit.serve.settings import Settings
from serving import Gate


@pytest.fixture
def gate() -> Gate:
    return Gate()


@pytest.fixture(scope="module")
def images(photos: Path) -> list[bytes]:
    return [path.read_bytes() for path in sorted(photos.iterdir())]


def in_service(gate: Gate, test: Callable[[Service], Coroutine[Any, Any, None]], **settings: Any) -> None:
    """Run a test inside a running service."""

    async def run() -> None:
        service = Service(gate.captioner, Settings(**{"timeout": 120, **settings}))
        async with service.running():
            await test(service)

    asyncio.run(run())


async def until(happened: Callable[[], Any]) -> None:
    for _ in range(6000):
        if happened():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it never happened")


def test_what_waits_goes_together_by_its_options(gate: Gate, images: list[bytes]) -> None:
    alone = {beam: replace(gate.captioner.decoding, num_beams=beam, max_length=30) for beam in (2, 3)}

    async def test(service: Service) -> None:
        asked = [asyncio.ensure_future(service.caption(images[0], alone[3]))]
        await until(lambda: gate.batches)
        asked += [asyncio.ensure_future(service.caption(images[n % 3], alone[2 + n % 2])) for n in range(11)]
        await until(lambda: len(service._batching._waiting) == 11)
        gate.open.set()
        outcomes = await asyncio.gather(*asked)
        assert gate.batches[0] == (1, 3)
        assert sorted(gate.batches[1:]) == [(1, 3), (2, 2), (4, 2), (4, 3)]
        expected = [(0, 3), *((n % 3, 2 + n % 2) for n in range(11))]
        for (image, beam), outcome in zip(expected, outcomes, strict=True):
            said = gate.captioner.caption(images[image], num_beams=beam, max_length=30)
            assert outcome.caption and outcome.caption.text == said.text

    in_service(gate, test, max_batch_size=4)


def test_dear_options_make_small_batches(gate: Gate, images: list[bytes]) -> None:
    async def test(service: Service) -> None:
        dear = service.decoding(temperature=1.0, num_captions=50, max_length=2)
        first = asyncio.ensure_future(service.caption(images[0]))
        await until(lambda: gate.batches)
        rest = [asyncio.ensure_future(service.caption(images[0], dear)) for _ in range(8)]
        await until(lambda: len(service._batching._waiting) == 8)
        gate.open.set()
        await asyncio.gather(first, *rest)
        assert [size for size, _ in gate.batches] == [1, 6, 2]

    in_service(gate, test)


def test_too_many_are_refused_at_once_and_later_taken(gate: Gate, images: list[bytes]) -> None:
    async def test(service: Service) -> None:
        asked = [asyncio.ensure_future(service.caption(image)) for image in images]
        await until(lambda: service.occupancy.images.total == 3)
        assert not service.ready
        with pytest.raises(BusyError, match=r"3 images wait already; try again in [0-9]+ s") as refused:
            await service.caption(images[0])
        assert int(refused.value.headers["Retry-After"]) >= 1
        with pytest.raises(CaptionkitError, match="4 images are more than the 3"):
            await service.caption_all(images[:1] * 4)
        gate.open.set()
        assert all(outcome.caption for outcome in await asyncio.gather(*asked))
        assert service.ready
        assert (await service.caption(images[0])).caption

    in_service(gate, test, max_queue=3)


def test_what_takes_too_long_is_told_and_makes_room(gate: Gate, images: list[bytes]) -> None:
    async def test(service: Service) -> None:
        first = asyncio.ensure_future(service.caption(images[0]))
        await until(lambda: gate.batches)  # the model is busy, so all others wait
        for late in (service.caption_all(images), first):
            with pytest.raises(RequestTimeoutError, match=r"no caption within 2 s"):
                await late
        assert service.occupancy.images.total == 0
        service.settings = Settings(timeout=120)
        gate.open.set()
        assert (await service.caption(images[0])).caption
        assert gate.batches == [(1, 3), (1, 3)], "those that were given up are not captioned"

    in_service(gate, test, timeout=2)


def test_a_caller_that_goes_away_leaves_the_queue(gate: Gate, images: list[bytes]) -> None:
    async def test(service: Service) -> None:
        first = asyncio.ensure_future(service.caption(images[0]))
        await until(lambda: gate.batches)
        second = asyncio.ensure_future(service.caption(images[1]))
        third = asyncio.ensure_future(service.caption(images[2]))
        await until(lambda: len(service._batching._waiting) == 2)
        second.cancel()
        gate.open.set()
        await asyncio.gather(first, third)
        assert gate.batches == [(1, 3), (1, 3)]
        assert second.cancelled() and service.occupancy.images.total == 0

    in_service(gate, test)


def test_bad_pictures_and_good_ones(gate: Gate, images: list[bytes]) -> None:
    gate.open.set()

    async def test(service: Service) -> None:
        good, bad, other = await service.caption_all([images[0], b"no picture", images[1]])
        assert isinstance(good, Outcome) and isinstance(other, Outcome)
        assert isinstance(bad, ImageError) and "not an image" in str(bad)
        with pytest.raises(ImageError, match="not an image"):
            await service.caption(b"no picture")
        with pytest.raises(ImageError, match="no caption of at most 1 words contains 'dog'"):
            await service.caption(images[0], service.decoding(force_words=["dog"], prefix="a", max_length=1))
        assert service.occupancy.images.total == 0

    in_service(gate, test)


def test_a_model_that_fails_fails_its_batch_alone() -> None:
    """And each waits for its own result, in whichever order it came."""
    started, go = threading.Event(), threading.Event()

    def work(key: str, items: Any) -> list[str]:
        started.set()
        assert go.wait(10)
        if key == "bad":
            raise MemoryError("no room")
        return [f"{key}{item}" for item in items]

    async def test() -> None:
        batching: Batcher[str, int, str] = Batcher(work, lambda _: 8)
        worker = asyncio.create_task(batching.run())
        asked = [asyncio.ensure_future(batching.submit(key, n)) for n, key in enumerate(["a", "bad", "b", "bad", "a"])]
        await until(started.is_set)
        go.set()
        found = await asyncio.gather(*asked, return_exceptions=True)
        assert [found[n] for n in (0, 2, 4)] == ["a0", "b2", "a4"]
        assert all(isinstance(found[n], MemoryError) for n in (1, 3))
        worker.cancel()

    asyncio.run(test())


def test_statuses_of_a_service_that_is_full_late_or_broken(gate: Gate, images: list[bytes]) -> None:
    app = create_app(gate.captioner, Settings(max_queue=1, timeout=3))
    with TestClient(app, raise_server_exceptions=False) as client:
        replies: list[Any] = []
        waiting = threading.Thread(target=lambda: replies.append(client.post("/", content=images[0])))
        waiting.start()
        while not gate.batches and not replies:
            time.sleep(0.01)
        full = client.post("/", content=images[0])
        assert full.status_code == 429 and int(full.headers["Retry-After"]) >= 1
        assert full.json()["error"]["type"] == "rate_limit_error"
        assert client.get("/readyz").status_code == 503
        assert client.get("/healthz").status_code == 200
        waiting.join()
        assert replies[0].status_code == 504 and "no caption within 3 s" in replies[0].json()["error"]["message"]
        app.state.service.settings = Settings(timeout=60)
        gate.open.set()
        assert client.get("/readyz").status_code == 200
        assert client.post("/", content=images[0]).status_code == 200

        def broken(*_: Any) -> Any:
            raise RuntimeError("secret")

        gate.captioner.describe = broken  # type: ignore[method-assign]
        reply = client.post("/", content=images[0])
        assert reply.status_code == 500 and "secret" not in reply.text
        assert reply.json()["error"]["type"] == "server_error"
