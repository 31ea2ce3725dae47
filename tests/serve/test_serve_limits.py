"""What the service takes and what it refuses, with which status, in the application itself."""

from __future__ import annotations

import base64
import io
import json
import socket
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import captionkit

pytest.importorskip("fastapi", reason="the extra `serve` is not installed")
pytest.importorskip("httpx2")

from starlette.testclient import TestClient

from captionkit.serve import url_fetch
from captionkit.serve.app import create_app
from captionkit.serve.settings import Settings

CAPTIONS, CHAT = "/v1/captions", "/v1/chat/completions"
JPEG = {"Content-Type": "image/jpeg"}


@pytest.fixture(scope="module")
def client(model: captionkit.Captioner) -> Iterator[TestClient]:
    with TestClient(create_app(model, Settings(max_bytes=2**18, max_pixels=10**6))) as opened:
        yield opened


def refused(reply: Any, status: int) -> str:
    """The one-line reason of a refusal with this status."""
    assert reply.status_code == status, reply.text
    error = reply.json()["error"]
    assert set(error) == {"message", "type", "status"}
    assert error["status"] == status and error["type"].endswith("_error")
    assert error["message"] and len(error["message"].splitlines()) == 1
    return error["message"]


def png(width: int, height: int) -> bytes:
    """A PNG that claims a size, with next to nothing in it."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    )


def test_bodies_are_bounded(client: TestClient, photo: bytes) -> None:
    assert "262,144" in refused(client.post(CAPTIONS, content=b"x" * (2**18 + 1), headers=JPEG), 413)
    chunks = (b"x" * 2**16 for _ in range(5))  # no length is declared
    assert "262,144" in refused(client.post(CAPTIONS, content=chunks, headers=JPEG), 413)
    assert client.post(CAPTIONS, content=iter([photo]), headers=JPEG).status_code == 200
    refused(client.post(CHAT, json={"messages": [{"role": "user", "content": "x" * 2**18}]}), 413)


def test_pictures_are_bounded_before_they_are_decoded(client: TestClient) -> None:
    assert "30000 x 30000 is more than 1000000 pixels" in refused(client.post("/", content=png(30_000, 30_000)), 413)
    assert "pixels" in refused(client.post(CAPTIONS, files={"f": png(1001, 1000)}), 413)
    refused(client.post("/", content=png(999, 999)), 422)  # its pixels are missing
    files = [("f", b"?")] * 33
    refused(client.post(CAPTIONS, files=files), 400)
    refused(client.post(CAPTIONS, json={"images": [""] * 33}), 413)


@pytest.mark.parametrize(
    "kind", ["text/plain", "application/xml", "video/mp4", "multipart/mixed", "x", "application/jso"]
)
def test_content_types(client: TestClient, photo: bytes, kind: str) -> None:
    for path in (CAPTIONS, "/", CHAT):
        refused(client.post(path, content=photo, headers={"Content-Type": kind}), 415)
    refused(client.post(CAPTIONS, content=photo, headers={**JPEG, "Content-Encoding": "gzip"}), 415)


def test_pictures_that_are_none(client: TestClient, photo: bytes) -> None:
    random = np.random.default_rng(0)
    starts = [b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"RIFF\0\0\0\0WEBP", b"GIF89a", b"II*\0", b"BM", b"P6\n"]
    for start in (*starts, *starts):
        garbage = start + random.bytes(int(random.integers(1, 3000)))
        refused(client.post("/", content=garbage), 422)
    refused(client.post("/", content=photo[: len(photo) // 3]), 422)
    refused(client.post("/", content=b""), 422)
    refused(client.post(CAPTIONS, files={}, data={"num_beams": "3"}), 415)
    refused(client.post(CAPTIONS, json={"images": []}), 422)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"{", 400),
        (b"\xff\xfe{}", 400),
        (b"[" * 100_000, 400),
        (b'{"images":' * 20_000 + b"1" + b"}" * 20_000, 400),
        (b"9" * 10_000, 400),
        (b"[]", 422),
        (b"null", 422),
        (b"{}", 422),
        (b'{"images": "x"}', 422),
        (b'{"images": [1]}', 422),
        (b'{"images": ["*"]}', 422),
        (b'{"images": ["\\ud800"]}', 422),
        (b'{"images": ["file:///etc/passwd"]}', 422),
        (b'{"images": ["data:image/png,x"]}', 422),
        (b'{"images": ["aGk="], "num_beams": NaN}', 422),
        (b'{"images": ["aGk="], "top_p": Infinity}', 422),
        (b'{"images": ["aGk="], "prefix": "\\ud800"}', 422),
        (b'{"images": ["aGk="], "force_words": {"a": 1}}', 422),
    ],
)
def test_json_that_does_not_fit(client: TestClient, body: bytes, status: int) -> None:
    refused(client.post(CAPTIONS, content=body, headers={"Content-Type": "application/json"}), status)


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"messages": []},
        {"messages": 1},
        {"messages": [{}]},
        {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": 3}}]}]},
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:,x"}}]}], "n": 0},
    ],
)
def test_conversations_that_do_not_fit(client: TestClient, body: dict[str, Any]) -> None:
    refused(client.post(CHAT, json=body), 422)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"num_beams": 0}, "num_beams"),
        ({"num_beams": 51}, "num_beams"),
        ({"num_beams": "three"}, "num_beams"),
        ({"num_captions": 4}, "raise num_beams"),
        ({"max_length": 101}, "max_length"),
        ({"min_length": 9, "max_length": 3}, "min_length"),
        ({"top_p": 0.9}, "set a temperature"),
        ({"force_words": "zyxwv"}, "vocabulary lacks 'zyxwv'"),
        ({"force_words": "dog", "bad_words": "dog"}, "leave out one"),
        ({"force_words": "a,dog,cat,man,boy", "num_beams": 50}, "lower num_beams"),
        ({"prefix": "a " * 40}, "prefix"),
        ({"beem": 3}, "there is no option beem"),
    ],
)
def test_options_that_do_not_fit(client: TestClient, photo: bytes, options: dict[str, Any], reason: str) -> None:
    encoded = base64.b64encode(photo).decode()
    replies = [
        client.post(CAPTIONS, params=options, content=photo, headers=JPEG),
        client.post(CAPTIONS, files={"f": photo}, data=options),
        client.post(CAPTIONS, json={"images": [encoded], **options}),
    ]
    for reply in replies:
        assert reason in refused(reply, 422)


def test_names_of_files_are_only_names(client: TestClient, photo: bytes, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("../../etc/passwd", "/tmp/x.jpg", "..\\x", "a b;c", "é\u202e.jpg", "x" * 3000, "C:\\con"):
        reply = client.post(CAPTIONS, files={"f": (name, photo)})
        assert reply.status_code == 200
        assert reply.json()["results"][0]["captions"]
    head = b'--x\r\nContent-Disposition: form-data; name="f"; filename="\xff\x00\xed\xa0\x80"\r\n\r\n'
    body = head + b"no picture" + b"\r\n--x--\r\n"
    refused(client.post(CAPTIONS, content=body, headers={"Content-Type": "multipart/form-data; boundary=x"}), 422)
    assert not list(tmp_path.iterdir())


def test_broken_forms(client: TestClient, photo: bytes) -> None:
    for kind, body in (
        ("multipart/form-data", b"x"),
        ("multipart/form-data; boundary=x", b"--y\r\n\r\n"),
        ("multipart/form-data; boundary=x", b"--x\r\nContent-Disposition: form-data\r\n\r\n1\r\n--x--\r\n"),
        ("multipart/form-data; boundary=" + "x" * 500, b"--x\r\n"),
    ):
        reply = client.post(CAPTIONS, content=body, headers={"Content-Type": kind})
        assert reply.status_code in (400, 422)
        refused(reply, reply.status_code)
    many = {f"field{n}": "1" for n in range(100)}
    refused(client.post(CAPTIONS, files={"f": photo}, data=many), 400)
    refused(client.post(CAPTIONS, files={"f": photo}, data={"prefix": "x" * 70_000}), 400)


def test_unknown_paths_and_methods(client: TestClient) -> None:
    refused(client.get("/nothing"), 404)
    refused(client.get(CAPTIONS), 405)
    refused(client.put("/"), 405)


def test_token(model: captionkit.Captioner, photo: bytes) -> None:
    with TestClient(create_app(model, Settings(token="s3cret"))) as client:
        for headers in (
            {},
            {"Authorization": "Bearer wrong"},
            {"Authorization": "s3cret"},
            {"Authorization": "Basic ?"},
        ):
            for path in ("/", CAPTIONS, CHAT):
                reply = client.post(path, content=photo, headers=headers)
                assert "token" in refused(reply, 401)
                assert "Bearer" in reply.headers["WWW-Authenticate"]
            for path in ("/", "/metrics", "/docs", "/v1/models", "/openapi.json", "/nothing"):
                refused(client.get(path, headers=headers), 401)
            assert client.get("/healthz", headers=headers).status_code == 200
            assert client.get("/readyz", headers=headers).status_code == 200
        for right in ({"headers": {"Authorization": "Bearer s3cret"}}, {"auth": ("anyone", "s3cret")}):
            assert client.post("/", content=photo, **right).status_code == 200
            assert client.get("/metrics", **right).status_code == 200


def test_other_origins_are_let_in_by_name_only(model: captionkit.Captioner, client: TestClient, photo: bytes) -> None:
    page, other = "https://page.example", "https://other.example"
    preflight = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
    with TestClient(create_app(model, Settings(cors=(page,), token="t"))) as opened:
        allowed = opened.options(CAPTIONS, headers={"Origin": page, **preflight})
        assert allowed.headers["Access-Control-Allow-Origin"] == page
        reply = opened.post("/", content=photo, headers={"Origin": page, "Authorization": "Bearer t"})
        assert reply.headers["Access-Control-Allow-Origin"] == page
        assert (
            "Access-Control-Allow-Origin"
            not in opened.options(CAPTIONS, headers={"Origin": other, **preflight}).headers
        )
    for reply in (
        client.post("/", content=photo, headers={"Origin": page}),
        client.options("/", headers={"Origin": page}),
    ):
        assert "Access-Control-Allow-Origin" not in reply.headers


@pytest.mark.parametrize(
    "address",
    [
        *(
            "127.0.0.1",
            "127.8.8.8",
            "0.0.0.0",
            "10.1.2.3",
            "172.16.0.1",
            "192.168.1.1",
            "169.254.169.254",
            "100.64.0.1",
        ),
        *("224.0.0.1", "240.0.0.1", "255.255.255.255", "192.0.2.1", "198.18.0.1"),
        *(
            "::1",
            "::",
            "fe80::1",
            "fe80::1%eth0",
            "fc00::1",
            "fec0::1",
            "ff02::1",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
        ),
        *("64:ff9b::7f00:1", "2002:7f00:1::", "2002:a00:1::1", "2001::1", "2001:db8::1"),
    ],
)
def test_addresses_inside_are_not_public(address: str) -> None:
    assert not url_fetch.is_public(address)


@pytest.mark.parametrize("address", ["1.1.1.1", "93.184.216.34", "2606:4700::1111", "::ffff:1.1.1.1"])
def test_addresses_outside_are_public(address: str) -> None:
    assert url_fetch.is_public(address)


@pytest.fixture
def fetching_client(model: captionkit.Captioner) -> Iterator[TestClient]:
    with TestClient(create_app(model, Settings(allow_urls=True, timeout=5, max_bytes=2**18))) as opened:
        yield opened


@pytest.mark.parametrize(
    "url",
    [
        *("http://127.0.0.1/", "http://localhost:22/", "http://[::1]/", "http://2130706433/", "http://0x7f.1/"),
        *(
            "http://169.254.169.254/latest/meta-data",
            "https://[::ffff:127.0.0.1]/",
            "http://0/",
            "http://user@127.0.0.1/",
        ),
    ],
)
def test_urls_lead_nowhere_inside(fetching_client: TestClient, url: str) -> None:
    assert "not a public address" in refused(fetching_client.post(CAPTIONS, json={"images": [url]}), 422)


@pytest.mark.parametrize("url", ["http://", "http://a b/", "https://x.invalid/", "http://[/", "HTTP://1.1.1.1:99999/"])
def test_urls_that_are_none(fetching_client: TestClient, url: str) -> None:
    refused(fetching_client.post(CAPTIONS, json={"images": [url]}), 422)


class _Site:
    """A web site on this machine that passes for a public one: names lead here, by addresses as they are given."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, pages: dict[str, tuple[int, dict[str, str], bytes]]) -> None:
        import http.server
        import threading

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                status, headers, body = pages[self.path]
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self.server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        port = self.server.server_port
        self.connected: list[str] = []
        self.unreachable: set[str] = set()
        backend = url_fetch.httpcore2.AnyIOBackend
        connect = backend.connect_tcp

        async def here(this: Any, host: str, *_: Any) -> Any:
            self.connected.append(host)
            if host in self.unreachable:
                raise url_fetch.httpcore2.ConnectError("no route to host")
            return await connect(this, "127.0.0.1", port)

        def resolve(host: str, *_: Any, **__: Any) -> list[Any]:
            addresses = {
                "public.example": ["93.184.216.34"],
                "inside.example": ["10.0.0.1"],
                "two.example": ["2606:2800:220:1::1", "93.184.216.34"],
                "half.example": ["93.184.216.34", "10.0.0.1"],
            }
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 80)) for address in addresses[host]]

        monkeypatch.setattr(backend, "connect_tcp", here)
        monkeypatch.setattr(socket, "getaddrinfo", resolve)


def test_the_next_address_is_tried_where_one_does_not_answer(
    fetching_client: TestClient, photo: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = _Site(monkeypatch, {"/photo.jpg": (200, {}, photo)})

    def ask(host: str) -> Any:
        part = {"type": "image_url", "image_url": {"url": f"http://{host}/photo.jpg"}}
        return fetching_client.post(CHAT, json={"messages": [{"role": "user", "content": [part]}]})

    site.unreachable = {"2606:2800:220:1::1"}
    assert ask("two.example").status_code == 200
    assert site.connected == ["2606:2800:220:1::1", "93.184.216.34"]
    site.unreachable |= {"93.184.216.34"}
    assert "no route to host" in refused(ask("two.example"), 422)
    site.connected.clear()
    assert "is not a public address" in refused(ask("half.example"), 422)
    assert site.connected == []


def test_fetching(fetching_client: TestClient, photo: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    at = "http://public.example"
    inside = "http://inside.example/photo.jpg"
    pages = {
        "/photo.jpg": (200, {}, photo),
        "/moved": (302, {"Location": "/photo.jpg"}, b""),
        "/loop": (301, {"Location": f"{at}/loop"}, b""),
        "/inside": (307, {"Location": inside}, b""),
        "/file": (302, {"Location": "file:///etc/passwd"}, b""),
        "/large": (200, {}, b"x" * (2**18 + 1)),
        "/gone": (410, {}, b""),
    }
    site = _Site(monkeypatch, pages)

    def ask(path: str) -> Any:
        url = path if ":" in path else at + path
        part = {"type": "image_url", "image_url": {"url": url}}
        return fetching_client.post(CHAT, json={"messages": [{"role": "user", "content": [part]}]})

    assert ask("/photo.jpg").json()["choices"][0]["message"]["content"]
    assert ask("/moved").status_code == 200
    assert set(site.connected) == {"93.184.216.34"}, "the address that was checked is the one that is connected to"
    assert "redirects more than" in refused(ask("/loop"), 422)
    before = len(site.connected)
    assert "not a public address" in refused(ask(inside), 422)
    assert len(site.connected) == before
    assert "not a public address" in refused(ask("/inside"), 422)
    refused(ask("/file"), 422)
    assert "status 410" in refused(ask("/gone"), 422)
    assert "more than the 262,144 bytes" in refused(ask("/large"), 413)
    site.server.shutdown()
    site.server.server_close()


def test_replies_are_utf8_whatever_is_in_them() -> None:
    from captionkit.serve.replies import Reply

    said = {"path": "\ud800é\U0001f600"}
    assert json.loads(Reply(said).body) == said


def test_kinds_of_pictures(client: TestClient, photos: Path) -> None:
    with Image.open(photos / "two.png") as image:
        for kind in ("PNG", "WEBP", "GIF", "BMP", "TIFF"):
            buffer = io.BytesIO()
            image.save(buffer, kind)
            reply = client.post(CAPTIONS, content=buffer.getvalue(), headers={"Content-Type": f"image/{kind.lower()}"})
            assert reply.status_code == 200, kind
