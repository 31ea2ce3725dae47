"""A started service under requests that no friend would send. It must answer as documented, and others meanwhile."""

from __future__ import annotations

import socket
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serving import Server, started

pytestmark = pytest.mark.slow

pytest.importorskip("fastapi", reason="the extra `serve` is not installed")
httpx = pytest.importorskip("httpx2")

_TIMEOUT = 5


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("abuse") / "desk"
    with started(folder, "--timeout", _TIMEOUT, "--max-bytes", 2**20, "--max-queue", 16) as running:
        yield running
        assert httpx.get(f"{running.url}/readyz", timeout=60).status_code == 200
        assert "captionkit_queue_pictures 0.0" in httpx.get(f"{running.url}/metrics").text
        assert "Traceback" not in running.log
    assert not list(folder.iterdir()), "it writes nothing"


def connect(server: Server, sent: bytes) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", server.port), timeout=60)
    connection.sendall(sent)
    return connection


def ask(server: Server, photo: bytes) -> None:
    """Get a caption as a friend would, who asks again where a busy machine takes long."""
    for _ in range(10):
        reply = httpx.post(server.url, content=photo, timeout=60)
        if reply.status_code not in (429, 504):
            break
    assert reply.status_code == 200, reply.text


def head(length: int, kind: str = "image/jpeg", path: str = "/v1/captions") -> bytes:
    return f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n\r\n".encode()


def test_uploads_that_are_cut(server: Server, photo: bytes) -> None:
    for part in (b"", photo[:100], photo[:-1]):
        connect(server, head(len(photo)) + part).close()
    connect(server, b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nffff\r\nabc").close()
    form = b'--x\r\nContent-Disposition: form-data; name="f"; filename="f"\r\n\r\n' + photo
    connect(server, head(10**5, "multipart/form-data; boundary=x") + form).close()
    ask(server, photo)
    for _ in range(300):
        if server.log.count(" 499 ") >= 5:
            return
        time.sleep(0.1)
    raise AssertionError(server.log)


def garbage(photos: list[bytes], random: np.random.Generator) -> bytes:
    """What calls itself an image: noise behind the first bytes of one, a cut file, or one with damaged bytes."""
    way = random.choice(3, p=[0.6, 0.3, 0.1])  # most of the damaged ones are images still, and captioned
    if way == 0:
        starts = [b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"RIFF\0\0\0\0WEBP", b"GIF89a", b"II*\0", b"BM", b"P6\n"]
        return starts[random.integers(len(starts))] + random.bytes(int(random.integers(1, 3000)))
    photo = photos[random.integers(len(photos))]
    if way == 1:
        return photo[: random.integers(1, len(photo))]
    damaged = np.frombuffer(photo, np.uint8).copy()
    damaged[random.integers(len(photo), size=random.integers(1, 50))] ^= 0xFF
    return damaged.tobytes()


def test_a_thousand_garbage_files(server: Server, photos: Path, photo: bytes) -> None:
    good = [path.read_bytes() for path in sorted(photos.iterdir()) if path.is_file()]
    random = np.random.default_rng(0)
    files = [garbage(good, random) for _ in range(1000)]
    paths = ("/", "/v1/captions")

    def status(number: int) -> int:
        headers = {"Content-Type": "application/octet-stream"}
        return client.post(paths[number % 2], content=files[number], headers=headers).status_code

    with httpx.Client(base_url=server.url, timeout=60) as client, ThreadPoolExecutor(4) as pool:
        statuses = Counter(pool.map(status, range(len(files))))
    assert statuses.keys() <= {200, 413, 422} and statuses[422] > 500, statuses
    ask(server, photo)


def test_slow_clients_hold_nobody_up(server: Server, photo: bytes) -> None:
    heads = [connect(server, b"POST / HTTP/1.1\r\nHost: x\r\n") for _ in range(40)]  # never end
    slow = [connect(server, head(len(photo)) + photo[:10]) for _ in range(40)]
    start = time.monotonic()
    ask(server, photo)
    while time.monotonic() < start + _TIMEOUT - 1:
        for connection in slow:
            connection.sendall(b"x")
        time.sleep(0.5)
    for connection in slow:
        reply = b"".join(iter(lambda here=connection: here.recv(2**16), b""))
        assert reply.startswith(b"HTTP/1.1 408 ") and b"took more than 5 s" in reply
    for connection in (*heads, *slow):
        connection.close()
    ask(server, photo)


def test_clients_that_read_nothing(server: Server, photo: bytes) -> None:
    """Their replies wait in their own connections."""
    path = "/v1/captions?attention=true&num_beams=6&num_captions=6"
    deaf = [connect(server, head(len(photo), path=path) + photo) for _ in range(4)]
    for _ in range(3):
        ask(server, photo)
    for connection in deaf:
        connection.close()


def test_a_client_that_goes_away_is_not_captioned(server: Server, photo: bytes) -> None:
    def count(outcome: str) -> float:
        name = f'captionkit_pictures_total{{outcome="{outcome}"}} '
        lines = [line for line in httpx.get(f"{server.url}/metrics").text.splitlines() if line.startswith(name)]
        return float(lines[0].rpartition(" ")[2]) if lines else 0.0

    before = count("captioned")
    path = "/v1/captions?temperature=1&num_captions=20&min_length=20&max_length=20"
    gone = [connect(server, head(len(photo), path=f"{path}&seed={n}") + photo) for n in range(12)]
    time.sleep(0.3)
    for connection in gone:
        connection.close()
    ask(server, photo)
    assert count("captioned") - before < 12


@pytest.mark.parametrize(
    "sent",
    [
        b"\0" * 1000,
        b"GET / HTTP/9.9\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"GET /%00%ff/../../etc/passwd HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\n" + b"X-Y: z\r\n" * 20_000 + b"\r\n",
        b"OPTIONS * HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        b"GET /docs HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
    ],
)
def test_what_is_no_request(server: Server, sent: bytes) -> None:
    try:
        with connect(server, sent) as connection:
            reply = connection.recv(2**16)
    except ConnectionError:
        reply = b""
    assert reply[9:10] in (b"4", b"2", b""), reply
    assert httpx.get(f"{server.url}/healthz").status_code == 200


def test_requests_drawn_from_the_schema(server: Server) -> None:
    """What the service says that it takes, and what it says that it does not take, never breaks it."""
    schemathesis = pytest.importorskip("schemathesis")
    for kind in ("image/jpeg", "image/png", "image/webp"):
        schemathesis.openapi.media_type(kind, _binary())
    schema = schemathesis.openapi.from_url(f"{server.url}/openapi.json")
    statuses: dict[str, set[int]] = {}
    for found in schema.get_all_operations():
        operation = found.ok()
        modes = list(schemathesis.GenerationMode)
        has_body = "requestBody" in operation.definition.raw
        for mode in modes if has_body else modes[:1]:  # nothing can be wrong with the others
            statuses.setdefault(operation.path, set()).update(_drawn(operation.as_strategy(generation_mode=mode)))
    assert set(statuses) >= {"/", "/v1/captions", "/v1/chat/completions", "/v1/models", "/metrics"}
    for path in ("/v1/captions", "/v1/chat/completions", "/v1/responses", "/api/chat", "/api/v1/vision/caption"):
        assert 422 in statuses[path], path


def _drawn(cases: Any) -> set[int]:
    """The statuses that requests from a strategy get, none of which may be a failure of the service."""
    from hypothesis import HealthCheck, Phase, given, settings

    statuses = set()

    @settings(
        max_examples=10,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
        phases=(Phase.explicit, Phase.generate),
    )
    @given(case=cases)
    def draw(case: Any) -> None:
        reply = case.call(timeout=60)
        statuses.add(reply.status_code)
        assert reply.status_code < 500 or reply.status_code in (503, 504), (reply.status_code, reply.text)
        if reply.status_code >= 400:
            assert {"error"} <= set(reply.json()) <= {"error", "code"}, reply.text

    draw()
    return statuses


def _binary() -> Any:
    from hypothesis import strategies as st

    starts = st.sampled_from([b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"RIFF\0\0\0\0WEBP"])
    return st.tuples(starts, st.binary(max_size=200)).map(b"".join)
