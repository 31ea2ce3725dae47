"""How many captions a second a started service gives to many clients at once, and how long each of them waits.

    python bench/serve.py [--seconds S] [--rounds N] [--clients N] [--photos DIR] [--model MODEL] [--save FILE]

Three services take turns, round by round, so that a busy moment of the machine hits all alike: one process that lets
requests that come together go through the model together, one that takes each by itself, and one of a worker for each
processor. All are asked by all clients at once, the first and the last by a single client too; each client sends its
next request when it has the last one's reply. Then a fourth service, with a short queue, is overrun. The clients share
the machine with the services.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path
from statistics import median

import httpx2
import psutil

from captionkit.errors import CaptionkitError
from captionkit.utils.console import print_message
from photos import found_photos, made_photos
from tables import Report, add_save, figure, table, tell

TOGETHER, WORKERS, APART = "together", "together, a worker for each processor", "each by itself"
SINGLE, SINGLE_OF_WORKERS = "one client", "one client, a worker for each processor"
_CASES = (TOGETHER, WORKERS, APART, SINGLE, SINGLE_OF_WORKERS)
_QUEUE = 8  # of the service that is overrun
_PHOTOS = 32


class Server:
    """`captionkit serve` in a process of its own, on a free port."""

    def __init__(self, log: Path, model: str | None, *flags: object) -> None:
        named = ["--model", model] if model else []
        command = [sys.executable, "-m", "captionkit", "serve", *named, "--port", "0", *map(str, flags)]
        with log.open("wb") as file:
            self._process = subprocess.Popen(command, stderr=file)
        self.url = self._address(log)
        self._process_of = psutil.Process(self._process.pid)

    def _address(self, log: Path) -> str:
        while self._process.poll() is None:
            found = re.search(r"serving at (http://\S+)", log.read_text())
            if found:
                return found.group(1)
            time.sleep(0.1)
        raise CaptionkitError(f"the service did not start: {log.read_text().strip()}")

    @property
    def megabytes(self) -> float:
        """What it holds in memory."""
        return sum(process.memory_info().rss for process in self._processes) / 2**20

    @property
    def seconds(self) -> float:
        """Processor time that it has taken."""
        return sum(sum(process.cpu_times()[:2]) for process in self._processes)

    @property
    def _processes(self) -> list[psutil.Process]:
        return [self._process_of, *self._process_of.children()]

    def wait_for(self, workers: int) -> None:
        """Wait until so many workers serve."""
        while f"captionkit_workers {workers:.1f}" not in httpx2.get(f"{self.url}/metrics").text:
            time.sleep(0.2)

    def stop(self) -> None:
        """End it, and wait until it has ended."""
        self._process.terminate()
        self._process.wait()


@dataclass
class Load:
    """What clients got of a service in some seconds."""

    seconds: float = 0.0
    #: processor time of the service
    work: float = 0.0
    #: seconds of each request that got its caption
    waits: list[float] = field(default_factory=list)
    #: what became of the requests: their status, or the name of what went wrong
    outcomes: Counter[str] = field(default_factory=Counter)

    @property
    def rate(self) -> float:
        """Captions a second."""
        return len(self.waits) / self.seconds

    @property
    def rate_of_work(self) -> float:
        """Captions per second of the service's processor time."""
        return len(self.waits) / self.work

    @property
    def failures(self) -> int:
        """Requests that got neither a caption nor the word to come again later."""
        return sum(count for outcome, count in self.outcomes.items() if outcome not in ("200", "429"))

    def percentile(self, share: int) -> float:
        """The milliseconds within which this share of the requests, in percent, had their captions."""
        ordered = sorted(self.waits)
        return ordered[min(len(ordered) * share // 100, len(ordered) - 1)] * 1000

    def __add__(self, other: Load) -> Load:
        return Load(
            self.seconds + other.seconds,
            self.work + other.work,
            self.waits + other.waits,
            self.outcomes + other.outcomes,
        )


async def ask(url: str, images: Sequence[bytes], clients: int, seconds: float) -> Load:
    """Let clients ask for captions over and over; the requests that are under way at the end are waited for."""
    load, waiting = Load(), cycle(images)
    limits = httpx2.Limits(max_connections=clients)
    async with httpx2.AsyncClient(base_url=url, timeout=120, limits=limits) as client:
        start = time.perf_counter()

        async def one() -> None:
            while time.perf_counter() < start + seconds:
                begun = time.perf_counter()
                try:
                    reply = await client.post(
                        "/v1/captions", content=next(waiting), headers={"Content-Type": "image/jpeg"}
                    )
                except httpx2.HTTPError as error:
                    load.outcomes[type(error).__name__] += 1
                    continue
                load.outcomes[str(reply.status_code)] += 1
                if reply.status_code == 200:
                    load.waits.append(time.perf_counter() - begun)
                else:
                    await asyncio.sleep(float(reply.headers.get("Retry-After", 0.1)))

        await asyncio.gather(*(one() for _ in range(clients)))
        load.seconds = time.perf_counter() - start
    return load


@dataclass
class Results:
    """What all rounds measured."""

    clients: int
    loads: dict[str, list[Load]] = field(default_factory=lambda: {name: [] for name in _CASES})
    #: of the service that lets requests go together, after each round
    megabytes: list[float] = field(default_factory=list)
    overrun: Load = field(default_factory=Load)
    #: the requests after it was overrun
    after: Load = field(default_factory=Load)

    def ratio(self, name: str, other: str, rate: str = "rate") -> str:
        """How many times the captions a second of another case one gives: the median, least and most of rounds."""
        pairs = zip(self.loads[name], self.loads[other], strict=True)
        ratios = [getattr(one, rate) / getattr(two, rate) for one, two in pairs]
        return f"{median(ratios):.2f} x ({min(ratios):.2f}–{max(ratios):.2f})"


def measure(options: argparse.Namespace, images: Sequence[bytes], logs: Path) -> Results:
    """Start the services and let them take turns."""
    results = Results(options.clients)
    with ExitStack() as stack:

        def start(name: str, *flags: object) -> Server:
            server = Server(logs / name, options.model, *flags)
            stack.callback(server.stop)
            return server

        room = ("--max-queue", 4 * options.clients, "--timeout", 120)
        together, apart = start("together", *room), start("apart", "--max-batch-size", 1, *room)
        count = max(2, psutil.cpu_count() or 2)
        workers = start("workers", "--workers", count, *room)
        workers.wait_for(count)
        cases = {
            TOGETHER: (together, options.clients),
            WORKERS: (workers, options.clients),
            APART: (apart, options.clients),
            SINGLE: (together, 1),
            SINGLE_OF_WORKERS: (workers, 1),
        }
        for server in (together, apart, workers):
            asyncio.run(ask(server.url, images, options.clients, 1))
        for round_ in range(options.rounds):
            for name, (server, clients) in cases.items():
                before = server.seconds
                load = asyncio.run(ask(server.url, images, clients, options.seconds))
                load.work = server.seconds - before
                results.loads[name].append(load)
                print_message(f"round {round_ + 1}, {name}: {load.rate:.1f} captions/s, {dict(load.outcomes)}")
            results.megabytes.append(together.megabytes)
        small = start("small", "--max-queue", _QUEUE, "--timeout", 120)
        results.overrun = asyncio.run(ask(small.url, images, options.clients, options.seconds))
        print_message(f"a queue of {_QUEUE}: {dict(results.overrun.outcomes)}")
        results.after = asyncio.run(ask(small.url, images, 1, 2))
    return results


def report(results: Results, told: str) -> Report:
    """Everything that was measured."""
    rows = []
    for name, loads in results.loads.items():
        load = sum(loads, Load())
        clients = 1 if name in (SINGLE, SINGLE_OF_WORKERS) else results.clients
        rates = [load.rate for load in loads]
        times = [f"{load.percentile(share):,.0f}" for share in (50, 95, 99)]
        rate = f"{figure(median(rates))} ({figure(min(rates))}–{figure(max(rates))})"
        work = figure(load.rate_of_work)
        rows.append([name, str(clients), str(len(load.waits)), str(load.failures), rate, work, *times])
    marks = []
    for name, other, wanted in ((WORKERS, SINGLE, "1.9 x"), (TOGETHER, SINGLE, ""), (TOGETHER, APART, "")):
        marks.append([f"captions/s, {name}, to {other}", wanted, results.ratio(name, other)])
        same = results.ratio(name, other, "rate_of_work")
        marks.append(["the same per second of the service's processor time", wanted, same])
    failures = sum(load.failures for loads in results.loads.values() for load in loads)
    memory = " → ".join(f"{megabytes:.0f}" for megabytes in results.megabytes)
    over, after = results.overrun, results.after
    refused = f"{over.outcomes['429']} of {over.outcomes.total()} refused with 429, {over.failures} failed"
    marks += [
        ["requests that failed", "0", str(failures)],
        ["memory after each round, MB", "flat", memory],
        [f"{results.clients} clients, a queue of {_QUEUE}", "429, none failed", refused],
        ["one client after that", "none refused", f"{after.outcomes['429']} refused of {after.outcomes.total()}"],
    ]
    head = ["requests", "clients", "captions", "failed", "captions/s", "per CPU s", "p50 ms", "p95 ms", "p99 ms"]
    return [told, table(["mark", "wanted", "measured"], marks), table(head, rows)]


def main() -> int:
    """Measure, print, and write where asked to."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=10, help="of each turn (default: 10)")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each case (default: 3)")
    parser.add_argument("--clients", type=int, default=64, help="that ask at once (default: 64)")
    parser.add_argument(
        "--photos", type=Path, metavar="DIR", help="your own JPEGs; without it, made-up ones of 640 x 480"
    )
    parser.add_argument("--model", help="model folder or Hub id (default: the model that comes with captionkit)")
    add_save(parser, "serve")
    options = parser.parse_args()
    try:
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            paths = found_photos(options.photos, _PHOTOS) if options.photos else made_photos(folder, _PHOTOS)
            load = psutil.getloadavg()[0]
            results = measure(options, [path.read_bytes() for path in paths], folder)
        told = (
            f"`python bench/serve.py --seconds {options.seconds:g} --rounds {options.rounds}`; "
            f"{psutil.cpu_count()} processors, load average {load:.1f} at the start; "
            "median (least–most) of the rounds, times of all requests."
        )
        tell(report(results, told), options.save)
    except CaptionkitError as error:
        print(f"serve: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
