"""The service below a path of a reverse proxy, which cuts that off or leaves it, and says so or does not."""

from __future__ import annotations

import json
import re
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import pytest

import captionkit
from captionkit.cli import main as cli
from serving import Server, started

pytest.importorskip("fastapi", reason="the extra `serve` is not installed")
pytest.importorskip("httpx2")

import httpx2 as httpx
from starlette.testclient import TestClient

from captionkit.serve.app import create_app
from captionkit.serve.settings import Settings, is_prefix

PREFIX = "/my/captions"
#: what the service is told: the setting, what the proxy says, and whether it cuts the prefix off
WAYS = [(PREFIX, "", True), (PREFIX, "", False), ("", PREFIX, True), ("", PREFIX, False), (PREFIX, PREFIX + "/", True)]


@contextmanager
def proxied(port: int, said: str, *, cut: bool) -> Iterator[str]:
    """The address of the service behind a proxy that serves it below PREFIX, and 404 elsewhere."""

    class Handler(BaseHTTPRequestHandler):
        def pass_on(self) -> None:
            if not self.path.startswith(PREFIX):
                self.send_error(404)
                return
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            headers = {name: value for name, value in self.headers.items() if name.lower() != "connection"}
            # nginx's usual header, so that the service knows its address from this alone
            headers |= {"X-Forwarded-Host": self.headers["Host"], "Host": f"127.0.0.1:{port}"}
            if said:
                headers["X-Forwarded-Prefix"] = said
            path = self.path.removeprefix(PREFIX) if cut else self.path
            behind = HTTPConnection("127.0.0.1", port, timeout=120)
            behind.request(self.command, path if path.startswith("/") else f"/{path}", body, headers)
            reply = behind.getresponse()
            self.send_response(reply.status)
            for name, value in reply.getheaders():
                if name.lower() not in ("transfer-encoding", "connection"):
                    self.send_header(name, value)
            self.end_headers()
            while part := reply.read1(2**16):
                self.wfile.write(part)
                self.wfile.flush()
            behind.close()

        locals().update(dict.fromkeys(("do_GET", "do_HEAD", "do_POST"), pass_on))

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}{PREFIX}"
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture(scope="module")
def clients(model: captionkit.Captioner) -> Iterator[dict[str, TestClient]]:
    """An application by its setting."""
    with (
        TestClient(create_app(model, Settings(root_path=f"{PREFIX}/"))) as told,
        TestClient(create_app(model, Settings())) as plain,
    ):
        yield {PREFIX: told, "": plain}


@pytest.mark.parametrize(("root", "said", "cut"), WAYS)
def test_links_begin_with_the_prefix(
    clients: dict[str, TestClient], photos: Path, root: str, said: str, cut: bool
) -> None:
    client, headers = clients[root], {"X-Forwarded-Prefix": said} if said else {}
    at = "" if cut else PREFIX

    def get(path: str) -> Any:
        return client.get(at + path, headers=headers, follow_redirects=False)

    assert get("/openapi.json").json()["servers"] == [{"url": PREFIX}]
    docs = get("/docs").text
    needed = re.findall(r'(?:src|href)="([^"]+)"', docs) + re.findall(r"url: '([^']+)'", docs)
    assert len(needed) >= 3
    for path in needed:
        assert path.startswith(f"{PREFIX}/")
        assert get(path.removeprefix(PREFIX)).status_code == 200, path
    for path in ("/healthz", "/healthz/", "/v1/models", "/"):
        assert get(path).status_code == 200, path
        assert client.head(at + path, headers=headers).status_code == 200
    assert get("/v1/captions").headers["Allow"] == "OPTIONS, POST"
    assert get("/nothing").json()["error"]["status"] == 404
    photo = (photos / "one.jpg").read_bytes()
    for path in ("/", "" if at else "/"):
        assert client.post(at + path, content=photo, headers=headers).json()[0]["generated_text"]
    assert client.post(f"{at}/v1/captions/", content=photo, headers=headers).status_code == 200


def test_a_reader_of_the_prefix_alone_is_sent_to_what_links_begin_with(clients: dict[str, TestClient]) -> None:
    reply = clients[PREFIX].get(f"{PREFIX}?a=b", follow_redirects=False)
    assert (reply.status_code, reply.headers["Location"]) == (307, f"{PREFIX}/?a=b")
    assert clients[PREFIX].get(f"{PREFIX}x").status_code == 404


@pytest.mark.parametrize(
    "said", ["//evil.example", "/a/../b", "/.", "a", "/a'b", '/a"b', "/<b>", "/a b", "/", "", "/a//b", "/" + "a" * 300]
)
def test_what_is_no_prefix_is_not_believed(clients: dict[str, TestClient], said: str) -> None:
    headers = {"X-Forwarded-Prefix": said}
    assert not is_prefix(said)
    assert "servers" not in clients[""].get("/openapi.json", headers=headers).json()
    assert clients[""].get("/docs", headers=headers).text == clients[""].get("/docs").text


def test_the_setting_goes_before_what_a_client_says(clients: dict[str, TestClient]) -> None:
    reply = clients[PREFIX].get("/openapi.json", headers={"X-Forwarded-Prefix": "/else"})
    assert reply.json()["servers"] == [{"url": PREFIX}]


def test_an_application_that_is_mounted_below_a_path(model: captionkit.Captioner, photos: Path) -> None:
    from starlette.applications import Starlette
    from starlette.routing import Mount

    app = create_app(model, Settings(token="t"))
    outer = Starlette(routes=[Mount("/sub", app)], lifespan=lambda _: app.router.lifespan_context(app))
    with TestClient(outer) as client:
        headers = {"Authorization": "Bearer t"}
        assert client.get("/sub/openapi.json", headers=headers).json()["servers"] == [{"url": "/sub"}]
        photo = (photos / "one.jpg").read_bytes()
        assert client.post("/sub/v1/captions/", content=photo, headers=headers).status_code == 200
        assert client.get("/sub/healthz").status_code == 200
        assert client.get("/sub/metrics").status_code == 401
        below = {**headers, "X-Forwarded-Prefix": "/a"}
        assert client.get("/sub/openapi.json", headers=below).json()["servers"] == [{"url": "/a/sub"}]


@pytest.mark.parametrize("path", ["captions", "/a b", "https://example.com/a", "/a/../b", "//a"])
def test_a_root_path_that_is_none(path: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["serve", "--root-path", path]) == 1
    assert f"--root-path is {path!r}; use a path such as /captions" in capsys.readouterr().err


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with started(tmp_path_factory.mktemp("proxy") / "desk", "--timeout", 120) as running:
        yield running
        assert "Traceback" not in running.log


@pytest.mark.slow
@pytest.mark.parametrize("cut", [True, False])
def test_the_web_page_behind_a_proxy(server: Server, photos: Path, model: captionkit.Captioner, cut: bool) -> None:
    with proxied(server.port, PREFIX, cut=cut) as url:
        page = httpx.get(f"{url}/", headers={"Accept": "text/html"}, timeout=60).text
        paths = set(re.findall(r'(?:src|href)="(ui/[^"]+)"', page))
        assert len(paths) >= 5
        for path in paths:
            assert httpx.get(urljoin(f"{url}/", path), timeout=60).status_code == 200, path
        preview = httpx.post(f"{url}/ui/preview", content=(photos / "two.png").read_bytes(), timeout=60)
        assert preview.headers["Content-Type"] == "image/jpeg"


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("wget") or not shutil.which("curl"), reason="wget or curl is not installed")
def test_wget_and_curl(server: Server, photos: Path) -> None:
    import subprocess

    with proxied(server.port, PREFIX, cut=True) as url:
        for path in ("/healthz", "/readyz", "/"):
            done = subprocess.run(["wget", "-q", "--spider", "-T", "60", url + path], capture_output=True, text=True)
            assert done.returncode == 0, (path, done.stderr)
        for ask in (["-d", "@-"], ["-H", "Content-Type:", "-d", "@-"]):
            body = json.dumps({"inputs": "aGVsbG8"})
            done = subprocess.run(
                ["curl", "-sS", *ask, f"{url}/"], input=body, capture_output=True, text=True, timeout=120
            )
            assert "not a" in done.stdout or "no image" in done.stdout, done.stdout
        head = subprocess.run(["curl", "-sSI", f"{server.url}/v1/models"], capture_output=True, text=True, timeout=120)
        assert head.stdout.startswith("HTTP/1.1 200")
