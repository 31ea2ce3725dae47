"""The files in deploy/: valid by their schemas, and in step with the service. No cluster is needed."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest

pytest.importorskip("yaml")

import yaml

from captionkit.serve.settings import Settings

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
FLAGS = {f"--{field.name.replace('_', '-')}" for field in fields(Settings)}


@pytest.fixture(scope="module")
def manifests() -> dict[str, dict[str, Any]]:
    documents = yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text(encoding="utf-8"))
    return {document["kind"]: document for document in documents}


@pytest.fixture(scope="module")
def container(manifests: dict[str, dict[str, Any]]) -> dict[str, Any]:
    (only,) = manifests["Deployment"]["spec"]["template"]["spec"]["containers"]
    return only


def asked(arguments: list[str]) -> Settings:
    """The settings that a list of flags and values stands for."""
    given = dict(zip(arguments[::2], arguments[1::2], strict=True))
    assert given.keys() <= FLAGS
    kinds = {field.name: type(field.default) for field in fields(Settings)}
    names = {flag: flag[2:].replace("-", "_") for flag in given}
    return Settings(**{names[flag]: kinds[names[flag]](value) for flag, value in given.items()})


def test_kubernetes_takes_the_manifests(manifests: dict[str, dict[str, Any]]) -> None:
    kubernetes = pytest.importorskip("kubernetes_validate", reason="kubernetes-validate is not installed")
    assert set(manifests) == {"Deployment", "Service", "HorizontalPodAutoscaler", "PodDisruptionBudget"}
    for document in manifests.values():
        kubernetes.validate(document, "1.31", strict=True)
    broken = {**manifests["Service"], "spec": {"ports": [{"prot": 80}]}}
    with pytest.raises(kubernetes.ValidationError):
        kubernetes.validate(broken, "1.31", strict=True)


def test_the_manifests_fit_together(manifests: dict[str, dict[str, Any]], container: dict[str, Any]) -> None:
    spec = manifests["Deployment"]["spec"]
    labels = spec["template"]["metadata"]["labels"]
    for selector in (
        spec["selector"]["matchLabels"],
        manifests["Service"]["spec"]["selector"],
        manifests["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"],
    ):
        assert selector.items() <= labels.items()
    (port,) = container["ports"]
    assert manifests["Service"]["spec"]["ports"][0]["targetPort"] == port["name"]
    assert port["containerPort"] == Settings().port
    assert manifests["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"]["name"] == "captionkit"


def test_the_pod_asks_for_what_its_flags_use(manifests: dict[str, dict[str, Any]], container: dict[str, Any]) -> None:
    settings = asked(container["args"])
    assert settings.workers * settings.threads == int(container["resources"]["requests"]["cpu"])
    (metric,) = manifests["HorizontalPodAutoscaler"]["spec"]["metrics"]
    assert int(metric["pods"]["target"]["averageValue"]) < settings.max_queue  # it grows before it refuses
    pod = manifests["Deployment"]["spec"]["template"]["spec"]
    pause = int(container["lifecycle"]["preStop"]["exec"]["command"][1])
    assert pod["terminationGracePeriodSeconds"] >= 2 * settings.timeout + pause


def test_the_probes_and_the_metric_are_the_services_own(
    manifests: dict[str, dict[str, Any]], container: dict[str, Any]
) -> None:
    pytest.importorskip("fastapi", reason="the extra `serve` is not installed")
    from captionkit.serve.metrics import Metrics
    from captionkit.serve.middleware import OPEN_PATHS
    from captionkit.serve.occupancy import Occupancy

    probes = [container[f"{kind}Probe"]["httpGet"] for kind in ("startup", "liveness", "readiness")]
    assert all(probe["path"] in OPEN_PATHS and probe["port"] == "http" for probe in probes)
    (metric,) = manifests["HorizontalPodAutoscaler"]["spec"]["metrics"]
    assert f"\n{metric['pods']['metric']['name']} " in Metrics(Occupancy()).exposition().decode()


def test_compose_takes_the_file() -> None:
    pytest.importorskip("check_jsonschema", reason="check-jsonschema is not installed")
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"]
    result = subprocess.run([*command, DEPLOY / "compose.yaml"], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout


def test_compose_is_in_step_with_the_service() -> None:
    services = yaml.safe_load((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))["services"]
    service = services["captionkit"]
    settings = asked(service["command"])
    assert settings.workers * settings.threads == service["cpus"]
    assert service["expose"] == [str(settings.port)]
    assert "ports" not in service  # only the proxy has one, or the replicas would fight for it
    alone = yaml.safe_load((DEPLOY.parent / "compose.yaml").read_text(encoding="utf-8"))["services"]["captionkit"]
    for bound in ("read_only", "cap_drop", "security_opt", "mem_limit", "stop_grace_period"):
        assert service[bound] == alone[bound]


class _Replica(BaseHTTPRequestHandler):
    """Answers with its status, and its name."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        name = self.server.server_address[0]
        self.server.bodies.append(body)  # type: ignore[attr-defined]
        self.send_response(self.server.status)  # type: ignore[attr-defined]
        self.end_headers()
        self.wfile.write(str(name).encode())

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def replica(address: str, port: int, status: int) -> Iterator[ThreadingHTTPServer]:
    with ThreadingHTTPServer((address, port), _Replica) as server:
        server.status, server.bodies = status, []  # type: ignore[attr-defined]
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@contextmanager
def names(addresses: list[str]) -> Iterator[int]:
    """A name server that gives these addresses for every name; yields its port."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))

        def answer() -> None:
            while True:
                query, client = server.recvfrom(512)
                if query == b"end":
                    return
                question = query[12 : query.index(b"\0", 12) + 5]
                found = b"".join(b"\xc0\x0c\0\1\0\1\0\0\0\1\0\4" + socket.inet_aton(one) for one in addresses)
                head = query[:2] + b"\x81\x80\0\1" + len(addresses).to_bytes(2, "big") + b"\0\0\0\0"
                server.sendto(head + question + found, client)

        thread = threading.Thread(target=answer)
        thread.start()
        yield server.getsockname()[1]
        server.sendto(b"end", server.getsockname())
        thread.join()


@pytest.mark.skipif(not shutil.which("nginx"), reason="nginx is not installed (apt install nginx-light)")
def test_the_proxy_finds_replicas_and_passes_a_full_one_by(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        front = free.getsockname()[1]
    with names(["127.0.0.1", "127.0.0.2"]) as resolver:
        text = (DEPLOY / "nginx.conf").read_text(encoding="utf-8")
        for ours, theirs in (
            ("127.0.0.11", f"127.0.0.1:{resolver}"),
            ("listen 1234", f"listen {front}"),
            ("$service:1234", f"$service:{port}"),
        ):
            assert text.count(ours) == 1
            text = text.replace(ours, theirs)
        config = tmp_path / "nginx.conf"
        user = "user root; " if os.geteuid() == 0 else ""
        places = "".join(
            f"{kind}_temp_path {tmp_path}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        config.write_text(
            f"{user}pid {tmp_path}/pid; error_log {tmp_path}/error.log; daemon off; events {{}} "
            f"http {{ access_log off; {places}\n{text}}}"
        )
        command = ["nginx", "-p", str(tmp_path), "-e", str(tmp_path / "error.log"), "-c", str(config)]
        with replica("127.0.0.1", port, 429) as full, replica("127.0.0.2", port, 200) as idle:
            with subprocess.Popen(command) as process:
                try:
                    for _ in range(100):
                        with socket.socket() as knock:
                            if not knock.connect_ex(("127.0.0.1", front)):
                                break
                            threading.Event().wait(0.1)
                    for _ in range(4):
                        request = Request(f"http://127.0.0.1:{front}/v1/captions", b"x" * 200_000)
                        assert urlopen(request, timeout=30).read() == b"127.0.0.2"
                finally:
                    process.terminate()
            assert full.bodies and len(idle.bodies) == 4  # type: ignore[attr-defined]
            assert set(full.bodies + idle.bodies) == {b"x" * 200_000}  # type: ignore[attr-defined]
