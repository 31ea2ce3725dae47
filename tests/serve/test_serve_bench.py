"""What bench/serve.py makes of what it measured, and that it measures a started service."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path

import pytest

from serving import started

pytest.importorskip("fastapi", reason="the extra `serve` is not installed")
pytest.importorskip("httpx2")

import serve as bench
from tables import markdown


def test_report() -> None:
    results = bench.Results(64, megabytes=[400.4, 410.0])
    for rates in ((20, 30, 10, 5, 4), (30, 20, 10, 10, 8), (24, 24, 12, 8, 6)):
        for name, rate in zip(results.loads, rates, strict=True):
            waits = [n / 100 for n in range(1, 10 * rate + 1)]
            results.loads[name].append(bench.Load(10, 5, waits, Counter({"200": len(waits)})))
    results.loads[bench.APART][1].outcomes["500"] += 2
    results.overrun = bench.Load(10, 5, [1.0], Counter({"200": 1, "429": 5}))
    results.after = bench.Load(10, 5, [1.0], Counter({"200": 1}))
    text = markdown(bench.report(results, "as told"))
    assert "| captions/s, together, a worker for each processor, to one client | 1.9 x | 3.00 x (2.00–6.00) |" in text
    assert "| captions/s, together, to one client |  | 3.00 x (3.00–4.00) |" in text
    assert "| the same per second of the service's processor time |  | 3.00 x (3.00–4.00) |" in text
    assert "| captions/s, together, to each by itself |  | 2.00 x (2.00–3.00) |" in text
    assert "| requests that failed | 0 | 2 |" in text
    assert "400 → 410" in text
    assert "5 of 6 refused with 429, 0 failed" in text
    assert "| one client | 1 | 230 | 0 | 8.00 (5.00–10.0) | 15.3 | 390 | 890 | 980 |" in text


def test_percentiles() -> None:
    load = bench.Load(1, 1, [n / 1000 for n in range(100, 0, -1)])
    assert [load.percentile(share) for share in (50, 95, 99)] == [51, 96, 100]


@pytest.mark.slow
def test_asking(tmp_path: Path, photos: Path) -> None:
    with started(tmp_path / "desk", "--timeout", 120, "--max-queue", 2) as server:
        load = asyncio.run(bench.ask(server.url, [(photos / "one.jpg").read_bytes()], 6, 1))
    assert load.outcomes["200"] == len(load.waits) >= 2
    assert load.outcomes["429"] >= 1 and load.failures == 0
    assert load.seconds >= 1 and load.rate == len(load.waits) / load.seconds
