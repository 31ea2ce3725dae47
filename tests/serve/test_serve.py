"""A started service, asked in each of its three conventions, by plain HTTP and by the clients that people use."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import captionkit
from captionkit.cli import main as cli
from captionkit.publish.alt_text import alt_text
from serving import Server, started

pytest.importorskip("fastapi", reason="the extra `serve` is not installed")
httpx = pytest.importorskip("httpx2")
http = httpx.Client(timeout=120)

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with started(tmp_path_factory.mktemp("serve") / "desk", "--log-format", "json", "--timeout", 120) as running:
        yield running
        assert "Traceback" not in running.log


@pytest.fixture(scope="module")
def photo(photos: Path) -> Path:
    return photos / "one.jpg"


@pytest.fixture(scope="module")
def model() -> captionkit.Captioner:
    return captionkit.load()


def data_url(photo: Path) -> str:
    return "data:image/jpeg;base64," + base64.b64encode(photo.read_bytes()).decode()


def test_each_way_of_sending_a_picture_gives_the_documented_lines(
    server: Server, photos: Path, photo: Path, model: captionkit.Captioner
) -> None:
    said = model.caption(photo, num_beams=4, num_captions=2)
    wanted = [caption.to_dict() for caption in (said, *said.alternatives)]
    options = {"num_beams": 4, "num_captions": 2}
    url, raw = f"{server.url}/v1/captions", photo.read_bytes()
    query = "?num_beams=4&num_captions=2"
    jpeg, binary = {"Content-Type": "image/jpeg"}, {"Content-Type": "application/octet-stream"}
    with photo.open("rb") as file:
        replies = [
            http.post(url + query, content=raw, headers=jpeg),
            http.post(url + query, content=raw, headers=binary),
            http.post(url, files={"image": file}, data=options),
            http.post(url, json={"images": [base64.b64encode(raw).decode()], **options}),
            http.post(url, json={"images": [data_url(photo)], **options}),
        ]
    for reply, path in zip(replies, ["picture", "picture", "one.jpg", "images[0]", "images[0]"], strict=True):
        assert reply.status_code == 200, reply.text
        (result,) = reply.json()["results"]
        assert reply.json()["model"] == "everyday"
        assert result["path"] == path
        assert set(result["ms"]) == {"open", "encode", "decode"}
        assert [caption["text"] for caption in result["captions"]] == [caption["text"] for caption in wanted]
        for got, want in zip(result["captions"], wanted, strict=True):
            assert got["log_prob"] == pytest.approx(want["log_prob"], abs=1e-3)
            assert got["confidence"] == pytest.approx(want["confidence"], abs=1e-3)
            assert [word["text"] for word in got["words"]] == [word["text"] for word in want["words"]]


def test_several_files_and_maps(server: Server, photos: Path, model: captionkit.Captioner) -> None:
    names = sorted(path.name for path in photos.iterdir())
    files = [("image", (name, (photos / name).read_bytes())) for name in names]
    files.insert(1, ("image", ("notes.jpg", b"not an image")))
    reply = http.post(f"{server.url}/v1/captions", files=files, data={"attention": "true", "force_words": "dog, grass"})
    results = reply.json()["results"]
    assert [result["path"] for result in results] == [names[0], "notes.jpg", *names[1:]]
    assert results.pop(1)["error"].startswith("notes.jpg: not an image")
    for name, result in zip(names, results, strict=True):
        (caption,) = result["captions"]
        said = model.caption(photos / name, force_words=("dog", "grass"))
        assert caption["text"] == said.text
        assert {"dog", "grass"} <= set(said.text.split())
        for got, want in zip(caption["words"], said.words, strict=True):
            assert np.allclose(got["attention"], want.attention, atol=2e-3)


_ASK = """
import json, sys
from huggingface_hub import InferenceClient
from huggingface_hub.errors import HfHubHTTPError
url, photo, bad = sys.argv[1:]
said = [InferenceClient(model=url).image_to_text(photo).generated_text]
said.append(InferenceClient(base_url=url).image_to_text(open(photo, "rb").read()).generated_text)
said.append(InferenceClient().image_to_text(photo, model=url).generated_text)
try:
    InferenceClient(model=url).image_to_text(bad)
except HfHubHTTPError as error:
    said += [error.response.status_code, str(error)]
print(json.dumps(said))
"""


@pytest.mark.slow
def test_hugging_face_client(server: Server, photo: Path, tmp_path: Path, model: captionkit.Captioner) -> None:
    (tmp_path / "bad.jpg").write_bytes(b"no picture")
    done = subprocess.run(
        [sys.executable, "-c", _ASK, server.url, str(photo), str(tmp_path / "bad.jpg")],
        env=os.environ | {"HF_HUB_OFFLINE": "0"},  # which would refuse this machine, too
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    *texts, status, reason = json.loads(done.stdout.splitlines()[-1])
    assert texts == [model.caption(photo).text] * 3
    assert status == 422
    assert "not an image" in reason


def test_hugging_face_convention_by_hand(server: Server, photo: Path, model: captionkit.Captioner) -> None:
    wanted = [{"generated_text": model.caption(photo).text}]
    for kind in ("image/png", "application/x-www-form-urlencoded", None):
        headers = {"Content-Type": kind} if kind else {}
        assert http.post(server.url, content=photo.read_bytes(), headers=headers).json() == wanted


def test_openai_client(server: Server, photos: Path, photo: Path, model: captionkit.Captioner) -> None:
    openai = pytest.importorskip("openai")
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="anything", max_retries=0)
    assert [entry.id for entry in client.models.list()] == ["everyday"]

    def ask(*images: Path, **options: Any) -> Any:
        parts = [{"type": "image_url", "image_url": {"url": data_url(image)}} for image in images]
        content = [{"type": "text", "text": "What is in this image?"}, *parts]
        messages = [{"role": "system", "content": "You describe."}, {"role": "user", "content": content}]
        return client.chat.completions.create(model="everyday", messages=messages, **options)

    said = model.caption(photo, num_beams=4, num_captions=2)
    answer = ask(photo, n=2, extra_body={"num_beams": 4}, top_p=0.9)
    assert [c.message.content for c in answer.choices] == [said.text, said.alternatives[0].text]
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage.completion_tokens == len(said.tokens) + len(said.alternatives[0].tokens)
    others = [photo, photos / "two.png"]
    assert ask(*others).choices[0].message.content.split("\n") == [c.text for c in model.caption(others)]
    short = ask(photo, max_tokens=3).choices[0]
    assert (short.finish_reason, short.message.content) == ("length", model.caption(photo, max_length=3).text)

    chunks = list(ask(photo, stream=True, stream_options={"include_usage": True}))
    words = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
    assert "".join(words) == model.caption(photo).text
    assert len([word for word in words if word]) == len(model.caption(photo).text.split())
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-1].usage.completion_tokens == len(model.caption(photo).tokens)

    part = {"type": "image_url", "image_url": {"url": "https://example.com/a.jpg"}}
    with pytest.raises(openai.UnprocessableEntityError, match="fetches no URLs"):
        client.chat.completions.create(model="x", messages=[{"role": "user", "content": [part]}])


def test_options_are_those_of_decoding(server: Server) -> None:
    from dataclasses import fields

    described = http.get(f"{server.url}/openapi.json").json()["paths"]["/v1/captions"]["post"]
    query = {parameter["name"]: parameter for parameter in described["parameters"]}
    known = {field.name: field for field in fields(captionkit.Decoding)}
    assert set(query) == {*known, "attention", "min_confidence", "style", "max_chars"}
    bodies = described["requestBody"]["content"]
    for kind in ("multipart/form-data", "application/json"):
        assert set(bodies[kind]["schema"]["properties"]) == {*query, "images"}
    for name, field in known.items():
        assert query[name]["description"] == field.metadata["help"]
        if field.metadata["high"] is not None:
            bounds = query[name]["schema"]
            assert bounds["minimum"] == field.metadata["low"]
            assert bounds["maximum"] <= field.metadata["high"]


def test_captions_of_too_little_confidence_are_for_review(server: Server, photo: Path) -> None:
    url, raw = f"{server.url}/v1/captions", photo.read_bytes()
    sent = {"content": raw, "headers": {"Content-Type": "image/jpeg"}}
    replies = {
        None: http.post(url, **sent),
        True: http.post(f"{url}?min_confidence=1&num_captions=2", **sent),
        False: http.post(url, files={"image": raw}, data={"min_confidence": "0"}),
    }
    encoded = base64.b64encode(raw).decode()
    replies |= {1: http.post(f"{url}?min_confidence=0", json={"images": [encoded], "min_confidence": 1})}
    for review, reply in replies.items():
        (result,) = reply.json()["results"]
        assert [one.get("review") for one in (result, *result["captions"])] == [review] * (1 + len(result["captions"]))
    refused = http.post(f"{url}?min_confidence=1.5", **sent)
    assert refused.status_code == 422 and "min_confidence" in refused.json()["error"]["message"]
    asked = {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": data_url(photo)}}]}]}
    assert http.post(f"{server.url}/v1/chat/completions", json=asked | {"min_confidence": 1}).status_code == 200


def test_alt_text_and_the_region_that_attention_covers(server: Server, photo: Path) -> None:
    url, raw = f"{server.url}/v1/captions", photo.read_bytes()
    sent = {"content": raw, "headers": {"Content-Type": "image/jpeg"}}
    asked = "num_captions=2&num_beams=4&attention=true&min_confidence=1"
    (plain,) = http.post(f"{url}?{asked}", **sent).json()["results"]
    assert plain["region"] == [0, 0, 1, 1]  # this model sees the whole image
    (alt,) = http.post(f"{url}?{asked}&style=alt&max_chars=40", **sent).json()["results"]
    outcome = captionkit.load(threads=1).caption(photo, num_captions=4, num_beams=4)
    hypotheses = [outcome.text, *(other.text for other in outcome.alternatives)]
    assert alt["captions"][0]["text"] == alt_text(hypotheses, max_chars=40, guess=True)
    assert [len(result["captions"]) for result in (plain, alt)] == [2, 2]
    assert all(caption["text"].startswith("May show ") for caption in alt["captions"])
    assert "region" not in http.post(url, **sent).json()["results"][0]
    for wrong, reason in (
        ("style=poem", "style: "),
        ("style=alt&max_chars=5", "max_chars: "),
        ("max_chars=50", "style"),
    ):
        reply = http.post(f"{url}?{wrong}", **sent)
        assert reply.status_code == 422 and reason in reply.json()["error"]["message"], wrong


def test_upkeep_and_pages(server: Server, photo: Path) -> None:
    assert http.get(f"{server.url}/healthz").json() == {"status": "ok"}
    assert http.get(f"{server.url}/readyz").json() == {"status": "ready", "model": "everyday"}
    assert "captionkit" in http.get(server.url, headers={"Accept": "text/html"}).text

    def counted() -> dict[str, float]:
        text = http.get(f"{server.url}/metrics").text
        return {name: float(value) for name, value in re.findall(r"^(captionkit_\S+) (\S+)$", text, re.MULTILINE)}

    before = counted()
    http.post(f"{server.url}/v1/captions", files={"f": photo.read_bytes()})
    http.post(f"{server.url}/v1/captions", files={"f": b"?"})
    after = counted()
    for name in (
        'captionkit_requests_total{path="/v1/captions",status="200"}',
        'captionkit_requests_total{path="/v1/captions",status="422"}',
        'captionkit_pictures_total{outcome="captioned"}',
        'captionkit_pictures_total{outcome="unusable"}',
        "captionkit_batch_pictures_count",
        'captionkit_stage_seconds_count{stage="decode"}',
    ):
        assert after[name] == before.get(name, 0) + 1, name
    assert after["captionkit_queue_pictures"] == 0


def test_documentation_needs_no_internet(server: Server) -> None:
    page = http.get(f"{server.url}/docs").text
    needed = re.findall(r'(?:src|href)="([^"]+)"', page)
    assert len(needed) >= 2 and "http" not in page.replace(server.url, "")
    for path in needed:
        assert path.startswith("/") and http.get(server.url + path).status_code == 200, path


def test_replies_are_sent_at_once() -> None:
    """Else each reply on a connection that was used before waits 40 ms, by Nagle's algorithm."""
    from captionkit.serve.server import listen
    from captionkit.serve.settings import Settings

    with listen(Settings(port=0)) as listening, socket.create_connection(listening.getsockname()):
        connection, _ = listening.accept()
        with connection:
            assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_log_has_a_json_line_for_a_request(server: Server, photo: Path, model: captionkit.Captioner) -> None:
    http.post(f"{server.url}/v1/captions?seed=77", files={"f": photo.read_bytes()})
    http.get(f"{server.url}/no%0A%1B%5B1mthing")
    end = time.monotonic() + 10
    while "no%0A%1B%5B1mthing" not in server.log and time.monotonic() < end:
        time.sleep(0.02)  # a line is written when its reply has been sent
    _, _, log = server.log.partition("Ctrl-C ends it\n")
    lines = [json.loads(line) for line in log.splitlines()]
    captioned = next(line for line in reversed(lines) if line["path"] == "/v1/captions")
    assert captioned["captions"] == [model.caption(photo).text]
    assert captioned["status"] == 200 and captioned["ms"] > 0 and captioned["method"] == "POST"
    assert lines[-1]["path"] == "/no%0A%1B%5B1mthing" and lines[-1]["status"] == 404


@pytest.mark.slow
def test_ends_when_what_is_under_way_is_done(tmp_path: Path, photo: Path) -> None:
    with started(tmp_path / "desk") as server:
        replies: list[Any] = []

        def ask() -> None:
            slow = "temperature=1&num_captions=20&min_length=60&max_length=60"
            url = f"{server.url}/v1/captions?{slow}"
            replies.append(http.post(url, files={"f": photo.read_bytes()}, timeout=60))

        asking = threading.Thread(target=ask)
        asking.start()
        while "captionkit_queue_pictures 1.0" not in http.get(f"{server.url}/metrics").text:
            time.sleep(0.02)
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(60) in (0, -signal.SIGTERM)
        asking.join()
        assert replies[0].status_code == 200
        assert len(replies[0].json()["results"][0]["captions"]) == 20
        assert "Traceback" not in server.log
        with pytest.raises(httpx.ConnectError):
            http.get(server.url)


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (["--host", "nowhere.invalid"], "nowhere.invalid:1234: cannot listen there"),
        (["--log-format", "xml"], "--log-format is 'xml'; use text or json"),
        (["--max-batch-size", "99"], "--max-batch-size is 99; use a number from 1 to 32"),
        (["--token", "a\nb"], "--token has characters"),
        (["--model", "no-such-model"], "no-such-model"),
    ],
)
def test_what_cannot_start_says_why_in_a_line(
    flags: list[str], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["serve", *flags]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("captionkit: ") and reason in line


@pytest.mark.slow
def test_a_connection_outlives_the_five_seconds_after_which_clients_let_go_of_theirs(server: Server) -> None:
    connection = HTTPConnection("127.0.0.1", server.port, timeout=30)
    for pause in (5.5, 0):
        connection.request("GET", "/healthz")
        reply = connection.getresponse()
        assert reply.status == 200 and reply.read()
        time.sleep(pause)
    connection.close()


def test_a_port_that_is_taken_is_named(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["serve", "--port", str(server.port)]) == 1
    assert f"127.0.0.1:{server.port}: cannot listen there" in capsys.readouterr().err


def test_without_the_extra_says_what_to_install() -> None:
    code = "import sys; sys.modules['uvicorn'] = None; from captionkit.cli.main import main; sys.exit(main(['serve']))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr == "captionkit: uvicorn is not installed; run `pip install 'captionkit[serve]'`\n"


def test_serves_without_torch() -> None:
    code = "import captionkit.serve.server, sys; print({'torch', 'transformers', 'onnx'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("curl"), reason="curl is not installed")
def test_curl_lines_of_the_guide_work(server: Server, photo: Path, tmp_path: Path) -> None:
    guide = (ROOT / "docs" / "serve.md").read_text(encoding="utf-8")
    blocks = "".join(re.findall(r"```sh\n(.*?)```", guide, re.DOTALL)).replace("\\\n", " ")
    lines = [line for line in blocks.splitlines() if "curl " in line]
    assert len(lines) >= 8
    for name in ("photo.jpg", "other.jpg"):
        shutil.copy(photo, tmp_path / name)
    for line in lines:
        asked = line.replace("localhost:1234", f"127.0.0.1:{server.port}").replace(
            "curl ", "curl -sS --fail-with-body "
        )
        done = subprocess.run(["bash", "-c", asked], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0 and done.stdout, f"{line}\n{done.stdout}{done.stderr}"
