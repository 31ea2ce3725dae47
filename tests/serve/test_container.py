"""The container's description: what must hold of it whatever else changes. No engine is needed."""

from __future__ import annotations

import json
import re
import shlex
import sys
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest

yaml = pytest.importorskip("yaml")
if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def steps() -> list[tuple[str, str]]:
    """(instruction, arguments) of each step, continued lines joined."""
    text = re.sub(r"(?m)^\s*#.*\n", "", (ROOT / "Dockerfile").read_text(encoding="utf-8"))
    lines = [line for line in text.replace("\\\n", " ").splitlines() if line.strip()]
    return [(word, " ".join(rest.split())) for word, _, rest in (line.partition(" ") for line in lines)]


@pytest.fixture(scope="module")
def last_stage(steps: list[tuple[str, str]]) -> list[tuple[str, str]]:
    start = max(place for place, (word, _) in enumerate(steps) if word == "FROM")
    return steps[start:]


@pytest.fixture(scope="module")
def service() -> dict[str, Any]:
    services = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))["services"]
    return services["captionkit"]


def arguments(stage: list[tuple[str, str]], instruction: str) -> list[str]:
    return [rest for word, rest in stage if word == instruction]


def test_the_stages_are_slim_pinned_and_alike(steps: list[tuple[str, str]]) -> None:
    bases = [rest.split()[0] for rest in arguments(steps, "FROM")]
    assert len(bases) == 2 and len(set(bases)) == 1
    assert re.fullmatch(r"python:3\.\d+\.\d+-slim-\w+", bases[0])


def test_it_does_not_run_as_root(last_stage: list[tuple[str, str]]) -> None:
    (user,) = arguments(last_stage, "USER")
    assert int(user.partition(":")[0]) > 0
    words = [word for word, _ in last_stage]
    assert words.index("USER") > words.index("COPY")  # what it runs belongs to root
    assert words.index("USER") < words.index("ENTRYPOINT")


def test_it_serves_at_its_port_and_asks_itself_without_curl(last_stage: list[tuple[str, str]]) -> None:
    from captionkit.serve.middleware import OPEN_PATHS
    from captionkit.serve.settings import Settings

    port = Settings().port
    assert arguments(last_stage, "EXPOSE") == [str(port)]
    (entry,) = arguments(last_stage, "ENTRYPOINT")
    assert json.loads(entry) == ["captionkit", "serve", "--host", "0.0.0.0"]
    (check,) = arguments(last_stage, "HEALTHCHECK")
    program, flag, code = json.loads(check.partition("CMD ")[2])
    assert (program, flag) == ("python", "-c")
    compile(code, "HEALTHCHECK", "exec")
    (url,) = re.findall(r"http://127\.0\.0\.1:(\d+)(/\w+)", code)
    assert int(url[0]) == port and url[1] in OPEN_PATHS  # a token does not make it unhealthy


def test_the_health_check_tells_a_live_service_from_a_dead_one(last_stage: list[tuple[str, str]]) -> None:
    import http.server
    import subprocess
    import threading

    class Answer(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(answers.pop(0))
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    answers = [200, 503]
    (check,) = arguments(last_stage, "HEALTHCHECK")
    _, _, code = json.loads(check.partition("CMD ")[2])
    with http.server.HTTPServer(("127.0.0.1", 0), Answer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        command = [sys.executable, "-c", code.replace("1234", str(server.server_port))]
        for healthy in (True, False):
            assert (subprocess.run(command, capture_output=True).returncode == 0) == healthy
        server.shutdown()
    assert subprocess.run(command, capture_output=True).returncode != 0


def test_what_is_installed_is_pinned_and_has_no_torch(steps: list[tuple[str, str]]) -> None:
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    lines = (ROOT / "container" / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = [Requirement(line) for line in lines if line and not line.startswith("#")]
    versions = {canonicalize_name(need.name): next(iter(need.specifier)).version for need in pinned}
    assert all(str(need.specifier).startswith("==") for need in pinned)
    assert not {"torch", "torchvision", "transformers", "accelerate"} & versions.keys()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    extras = project["project"]["optional-dependencies"]
    asked = [*project["project"]["dependencies"], *extras["serve"], *project["build-system"]["requires"]]
    for need in map(Requirement, asked):
        if need.name != "captionkit":
            assert versions[canonicalize_name(need.name)] in need.specifier, need
    installs = [part for rest in arguments(steps, "RUN") for part in rest.split("&&") if "pip install" in part]
    assert installs and all("constraint" in install.lower() for install in installs)


def test_all_that_is_copied_is_there_and_not_ignored(steps: list[tuple[str, str]]) -> None:
    rules = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    kept = [rule[1:] for rule in rules if rule.startswith("!")]
    assert next(rule for rule in rules if not rule.startswith("#")) == "*"
    sources = [shlex.split(rest)[:-1] for rest in arguments(steps, "COPY") if "--from" not in rest]
    for path in (path for group in sources for path in group):
        assert (ROOT / path).exists()
        assert path in kept
    left_out = [rule for rule in rules if rule.startswith("**/")]
    assert any(fnmatch("src/captionkit/assets/everyday/model.safetensors", rule) for rule in left_out)


def test_compose_limits_what_it_may_do(service: dict[str, Any], last_stage: list[tuple[str, str]]) -> None:
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["mem_limit"] and service["pids_limit"] and service["cpus"]
    assert service["command"] == ["--threads", str(service["cpus"])]
    assert all(port.endswith(":1234") for port in service["ports"])
    (written,) = [mount.partition(":")[0] for mount in service["tmpfs"]]
    (variables,) = arguments(last_stage, "ENV")
    places = dict(pair.split("=", 1) for pair in shlex.split(variables))
    assert Path(places["HOME"]).is_relative_to(written)
