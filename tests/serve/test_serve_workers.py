"""Several processes behind one port: their queue, their metrics, how they end and are replaced."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest

from serving import Server, started

pytest.importorskip("fastapi", reason="the extra `serve` is not installed")
pytest.importorskip("httpx2")
pytest.importorskip("psutil")

import httpx2
import psutil
from prometheus_client.parser import text_string_to_metric_families

import serve as bench
from captionkit.errors import CaptionkitError
from captionkit.serve import occupancy
from captionkit.serve.metrics import Metrics
from captionkit.serve.occupancy import Occupancy, SharedCount, WorkerTable

JPEG = {"Content-Type": "image/jpeg"}


def until(true: Callable[[], object], what: str) -> None:
    for _ in range(1200):
        if true():
            return
        time.sleep(0.1)
    raise AssertionError(what)


def test_a_bound_holds_for_all_together() -> None:
    most, cells, held, seen = 3, [0] * 4, 0, 0
    lock = threading.Lock()

    def work(row: int) -> None:
        nonlocal held, seen
        count = SharedCount(cells, row)
        for _ in range(300):
            if count.add(1, most):
                with lock:
                    held += 1
                    seen = max(seen, held)
                time.sleep(0)
                with lock:
                    held -= 1
                count.remove(1)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(work, range(4)))
    finally:
        sys.setswitchinterval(interval)
    assert 1 < seen <= most
    assert cells == [0] * 4


def test_what_a_dead_process_held_is_given_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = WorkerTable.create(tmp_path)

    def claimed_by(process: int) -> Occupancy:
        monkeypatch.setattr(occupancy, "os", SimpleNamespace(getpid=lambda: process))
        return table.claim()

    first, second = claimed_by(4001), claimed_by(4002)
    assert first.images.add(5, 8) and second.images.add(3, 8) and not second.images.add(1, 8)
    assert first.processes == [4001, 4002]
    table.keep({4002})
    assert second.images.total == 3 and second.processes == [4002]
    assert claimed_by(4003).images.add(5, 8) and second.processes == [4003, 4002]
    for process in range(5000, 5000 + occupancy.ROWS - 2):
        claimed_by(process)
    with pytest.raises(CaptionkitError, match="fewer --workers"):
        table.claim()


def test_processes_are_added_up(monkeypatch: pytest.MonkeyPatch) -> None:
    class Twice(Occupancy):
        processes = [os.getpid(), os.getpid()]  # noqa: RUF012

    def values(occupancy: Occupancy) -> dict[str, float]:
        families = text_string_to_metric_families(Metrics(occupancy).exposition().decode())
        return {family.name: family.samples[0].value for family in families if family.samples}

    one, two = values(Occupancy()), values(Twice())
    assert two["captionkit_workers"] == 2 and one["captionkit_workers"] == 1
    assert two["process_resident_memory_bytes"] == pytest.approx(2 * one["process_resident_memory_bytes"], rel=0.2)
    assert two["process_start_time_seconds"] == one["process_start_time_seconds"]


def metric(server: Server, name: str) -> float:
    """The sum of a metric over its labels."""
    text = httpx2.get(f"{server.url}/metrics", timeout=60).text
    return sum(float(value) for value in re.findall(rf"(?m)^captionkit_{name}(?:\{{.*\}})? (\S+)$", text))


def workers(server: Server) -> list[psutil.Process]:
    """The processes that serve, without Python's own helper."""
    children = psutil.Process(server.process.pid).children()
    return [child for child in children if "resource_tracker" not in " ".join(child.cmdline())]


def ask(server: Server, image: bytes) -> int:
    return httpx2.post(f"{server.url}/v1/captions", content=image, headers=JPEG, timeout=120).status_code


@pytest.mark.slow
def test_workers_are_one_service(tmp_path: Path, photos: Path) -> None:
    image = (photos / "one.jpg").read_bytes()
    with started(tmp_path / "desk", "--workers", 2, "--threads", 1, "--max-queue", 3, "--timeout", 120) as server:
        until(lambda: metric(server, "workers") == 2, "the second worker never came")
        # one queue, whichever of them is asked, and counters of both
        load = asyncio.run(bench.ask(server.url, [image], 8, 1))
        assert load.outcomes["200"] and load.outcomes["429"] and not load.failures
        assert metric(server, "pictures_total") == load.outcomes.total()
        assert metric(server, "queue_pictures") == 0
        # one that is killed is replaced, and what it counted stays
        victim = workers(server)[0]
        victim.kill()
        until(lambda: "a worker has ended (SIGKILL" in server.log, "nobody noticed")
        until(lambda: metric(server, "workers") == 2 and len(workers(server)) == 2, "it was not replaced")
        assert victim.pid not in [worker.pid for worker in workers(server)]
        assert metric(server, "pictures_total") == load.outcomes.total()
        # what was taken is answered before all end
        with ThreadPoolExecutor(3) as pool:
            before = metric(server, "pictures_total")
            replies = [pool.submit(ask, server, image) for _ in range(3)]
            until(
                lambda: metric(server, "pictures_total") + metric(server, "queue_pictures") >= before + 3, "not taken"
            )
            left = workers(server)
            server.process.terminate()
            assert [reply.result() for reply in replies] == [200] * 3
        assert server.process.wait(60) == 0
        assert not any(worker.is_running() for worker in left)


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="processes cannot be killed so here")
def test_workers_end_with_a_killed_supervisor(tmp_path: Path) -> None:
    with started(tmp_path / "desk", "--workers", 2, "--threads", 1) as server:
        until(lambda: len(workers(server)) == 2, "the second worker never came")
        left = workers(server)
        server.process.kill()
        psutil.wait_procs(left, timeout=60)
        assert not any(worker.is_running() for worker in left)
        server.process.wait()
        server.process.returncode = 0  # as it should be, for `started`


def test_what_is_wrong_is_said_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from captionkit.cli.main import main

    assert main(["serve", "--workers", "2", "--port", "0", "--model", str(tmp_path / "none")]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "none" in line
    assert main(["serve", "--workers", "0"]) in (1, 2)
    assert "from 1 to 64" in capsys.readouterr().err
