"""The wires that photo programs and home automation speak: Ollama's, OpenAI's, PhotoPrism's, in the application itself.

The request bodies are those that the programs build, field for field, with an image of ours in the place of theirs.
"""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

import captionkit

pytest.importorskip("fastapi", reason="the extra `serve` is not installed")
pytest.importorskip("httpx2")

from starlette.testclient import TestClient

from captionkit.serve.app import create_app
from captionkit.serve.settings import Settings

GENERATE, CHAT, RESPONSES, VISION = "/api/generate", "/api/chat", "/v1/responses", "/api/v1/vision/caption"
#: sampling options that many clients send with every request
WARM = {"temperature": 0.9, "top_p": 0.5, "top_k": 5, "seed": 3}


@pytest.fixture(scope="module")
def text(client: TestClient, encoded: str) -> str:
    """The caption that /v1/captions gives, which all others must give."""
    reply = client.post("/v1/captions", json={"images": [encoded]})
    return str(reply.json()["results"][0]["captions"][0]["text"])


@pytest.fixture(scope="module")
def other(photos: Path) -> str:
    return base64.b64encode((photos / "two.png").read_bytes()).decode()


def message_of(reply: Any) -> str:
    assert reply.status_code == 200, reply.text
    return str(reply.json()["message"]["content"])


def lines_of(reply: Any) -> list[dict[str, Any]]:
    assert reply.status_code == 200, reply.text
    assert reply.headers["content-type"].startswith("application/x-ndjson")
    return [json.loads(line) for line in reply.text.splitlines()]


def refused(reply: Any, status: int) -> str:
    """The reason in one line, as clients of Ollama read it."""
    assert reply.status_code == status, reply.text
    (message,) = reply.json().values()
    assert isinstance(message, str) and message and len(message.splitlines()) == 1
    return message


def httpx_transport(client: TestClient, library: Any) -> Any:
    """A transport of an httpx library whose requests the application answers in this process."""

    def answer(request: Any) -> Any:
        reply = client.request(request.method, str(request.url), content=request.read(), headers=dict(request.headers))
        return library.Response(reply.status_code, headers=dict(reply.headers), content=reply.content)

    return library.MockTransport(answer)


# ---- Ollama


def test_ollama_client(client: TestClient, photo: bytes, text: str) -> None:
    library = pytest.importorskip("ollama")
    asked = library.Client("http://testserver", transport=httpx_transport(client, pytest.importorskip("httpx")))
    (listed,) = asked.list().models
    assert listed.model == "everyday:latest" and listed.size > 10**7 and listed.modified_at.tzinfo is not None
    for name in ("everyday", "everyday:latest"):
        shown = asked.show(name)
        assert shown.capabilities == ["completion", "vision"] and shown.details == listed.details
    with pytest.raises(library.ResponseError, match=r"model 'llava' not found; .*status code: 404"):
        asked.show("llava")

    whole = asked.generate("everyday", "Describe it.", images=[photo], options=WARM)
    assert whole.response == text and whole.done and whole.done_reason == "stop"
    assert whole.eval_count == len(text.split()) and whole.total_duration > whole.eval_duration > 0
    assert asked.chat("llava", [{"role": "user", "content": "?", "images": [photo]}]).message.content == text
    parts = list(asked.generate("everyday", "Describe it.", images=[photo], stream=True))
    assert [part.response for part in parts] == [*pieces(text), ""]
    assert [part.done for part in parts] == [False] * len(pieces(text)) + [True]
    parts = list(asked.chat("everyday", [{"role": "user", "images": [photo]}], stream=True))
    assert [part.message.content for part in parts] == [*pieces(text), ""]
    with pytest.raises(library.ResponseError, match=r"not an image.*status code: 422"):
        asked.generate("everyday", "?", images=[b"no image"])


def pieces(text: str) -> list[str]:
    first, *others = text.split(" ")
    return [first, *(f" {word}" for word in others)]


def test_ollama_runs_for_those_that_look_for_it(client: TestClient) -> None:
    for accept in ("*/*", "application/json", ""):
        reply = client.get("/", headers={"Accept": accept})
        assert reply.text == "Ollama is running" and reply.headers["vary"] == "Accept"
    browser = client.get("/", headers={"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"})
    assert browser.headers["content-type"].startswith("text/html") and "everyday" in browser.text
    assert browser.headers["vary"] == "Accept", "a cache must keep the two apart"
    head = client.head("/", headers={"Accept": "application/json"})
    assert head.status_code == 200 and not head.content
    version = client.get("/api/version").json()["version"]
    assert tuple(map(int, version.split("."))) >= (0, 6, 4), "clients refuse older ones"


def test_ollama_streams_unless_told_otherwise(client: TestClient, encoded: str, text: str) -> None:
    lines = lines_of(client.post(GENERATE, json={"prompt": "?", "images": [encoded]}))
    assert "".join(line["response"] for line in lines) == text
    assert [line["done"] for line in lines][-2:] == [False, True] and lines[-1]["eval_count"] > 0
    whole = client.post(GENERATE, json={"prompt": "?", "images": [encoded], "stream": False}).json()
    assert whole["response"] == text and whole["model"] == "everyday:latest"
    curl = {"Content-Type": "application/x-www-form-urlencoded"}  # as in Ollama's own examples
    body = json.dumps({"messages": [{"role": "user", "images": [encoded]}], "stream": False})
    assert message_of(client.post(CHAT, content=body, headers=curl)) == text


def test_ollama_loads_and_unloads_nothing(client: TestClient) -> None:
    for path, empty in ((GENERATE, {"prompt": ""}), (CHAT, {"messages": []})):
        for keep, reason in ((None, "load"), ("5m", "load"), (0, "unload"), ("0s", "unload")):
            reply = client.post(path, json={"model": "everyday", "keep_alive": keep, **empty}).json()
            assert reply["done"] and reply["done_reason"] == reason
            assert not reply.get("response") and not reply.get("message", {}).get("content")


def test_ollama_options(client: TestClient, model: captionkit.Captioner, photo: bytes, encoded: str, text: str) -> None:
    def ask(**options: Any) -> Any:
        return client.post(GENERATE, json={"images": [encoded], "stream": False, "options": options})

    short = ask(num_predict=3).json()
    assert short["response"] == model.caption(photo, max_length=3).text and short["done_reason"] == "length"
    for harmless in (WARM, {"num_predict": -1}, {"num_predict": -2}, {"num_ctx": 4096, "repeat_penalty": 1.1}, {}):
        assert ask(**harmless).json()["response"] == text, harmless
    sampled = ask(do_sample=True, temperature=1, seed=7).json()["response"]
    assert sampled == model.caption(photo, temperature=1.0, seed=7).text
    assert ask(num_beams=1).json()["response"] == model.caption(photo, num_beams=1).text
    word = text.split()[2]
    assert ask(stop=[f" {word}"]).json()["response"] == " ".join(text.split()[:2])
    assert ask(num_captions=3).json()["response"] == text
    assert refused(ask(num_predict="many"), 422).startswith("options.num_predict: ")
    assert refused(ask(num_beams=1000), 422).startswith("num_beams: ")


@pytest.mark.parametrize("path", [GENERATE, CHAT])
@pytest.mark.parametrize(
    "asked", [{"format": "json"}, {"format": {"type": "object"}}, {"think": True}, {"logprobs": 1}]
)
def test_what_captions_cannot_be_is_refused(client: TestClient, path: str, asked: dict[str, Any]) -> None:
    assert refused(client.post(path, json={"prompt": "?", **asked}), 400).startswith(next(iter(asked)))
    assert client.post(path, json={"prompt": "?", **dict.fromkeys(asked)}).status_code == 200


def test_a_chat_without_an_image_is_told_what_the_model_does(client: TestClient) -> None:
    hi = {"role": "user", "content": "hi", "images": []}
    said = [
        message_of(client.post(CHAT, json={"messages": [hi], "stream": False})),
        client.post(GENERATE, json={"prompt": "hi", "stream": False}).json()["response"],
        client.post(RESPONSES, json={"input": "hi"}).json()["output"][0]["content"][0]["text"],
    ]
    for answer in said:
        assert "everyday" in answer and "describes images" in answer and answer.endswith(".")
    cut = client.post(GENERATE, json={"prompt": "hi", "stream": False, "options": {"num_predict": 1}}).json()
    assert cut["response"] == "This" and cut["done_reason"] == "length" and cut["eval_count"] == 1


def test_images_of_the_last_turn(client: TestClient, model: Any, encoded: str, other: str, text: str) -> None:
    second = model.caption(base64.b64decode(other)).text

    def ask(*messages: dict[str, Any]) -> str:
        return message_of(client.post(CHAT, json={"messages": list(messages), "stream": False}))

    first = {"role": "user", "content": "Image 1:", "images": [encoded]}
    assert ask(first, {"role": "user", "images": [other]}, {"role": "user", "content": "?"}) == f"{text}\n{second}"
    assert ask(first, {"role": "assistant", "content": "a dog"}, {"role": "user", "images": [other]}) == second
    assert ask(first, {"role": "assistant", "content": "a dog"}, {"role": "user", "content": "and?"}) == text
    both = ask({"role": "user", "images": [encoded, "*"]}).splitlines()
    assert both[0] == text and both[1].startswith("[messages[0].images[1]: not in base64")


# ---- OpenAI's responses


def test_openai_client_gets_responses(client: TestClient, encoded: str, text: str) -> None:
    openai = pytest.importorskip("openai")
    plain = pytest.importorskip("httpx")
    http = plain.Client(transport=httpx_transport(client, plain))
    asked = openai.OpenAI(base_url="http://testserver/v1", api_key="x", max_retries=0, http_client=http)
    part = {"type": "input_image", "image_url": f"data:image/jpeg;base64,{encoded}"}
    given = [{"role": "user", "content": [{"type": "input_text", "text": "What is this?"}, part]}]

    whole = asked.responses.create(model="x", input=given, temperature=1, top_p=0.2)
    assert whole.output_text == text and whole.status == "completed" and whole.model == "everyday"
    assert whole.usage.output_tokens == len(text.split()) == whole.usage.total_tokens
    cut = asked.responses.create(model="x", input=given, max_output_tokens=3)
    assert cut.status == "incomplete" and cut.incomplete_details.reason == "max_output_tokens"
    assert len(cut.output_text.split()) == 3

    with asked.responses.stream(model="x", input=given) as stream:
        events = list(stream)
        assert stream.get_final_response().output_text == text
    assert [event.delta for event in events if event.type == "response.output_text.delta"] == pieces(text)
    assert [event.sequence_number for event in events] == list(range(len(events)))
    schema = {"type": "json_schema", "name": "a", "schema": {"type": "object"}}
    with pytest.raises(openai.BadRequestError, match=r"text\.format: captions are plain text, not json_schema"):
        asked.responses.create(model="x", input=given, text={"format": schema})
    with pytest.raises(openai.BadRequestError, match="no response is kept"):
        asked.responses.create(model="x", input=given, previous_response_id=whole.id)
    with pytest.raises(openai.UnprocessableEntityError, match="has no image_url"):
        asked.responses.create(
            model="x", input=[{"role": "user", "content": [{"type": "input_image", "file_id": "f"}]}]
        )
    for alone in ({"background": True}, {"include": ["message.output_text.logprobs"]}, {"tool_choice": "required"}):
        with pytest.raises(openai.BadRequestError, match=next(iter(alone))):
            asked.responses.create(model="x", input=given, **alone)


# ---- Hugging Face


def test_hugging_face_client(client: TestClient, photo: bytes, text: str) -> None:
    hub = pytest.importorskip("huggingface_hub")
    if not hasattr(hub, "set_client_factory"):
        pytest.skip("this huggingface_hub takes no client of our own")
    import httpx2

    made = httpx2.Client(transport=httpx_transport(client, httpx2))
    hub.set_client_factory(lambda: made)
    try:
        asked = hub.InferenceClient(base_url="http://testserver")
        assert asked.image_to_text(photo).generated_text == text
        url = f"data:image/jpeg;base64,{base64.b64encode(photo).decode()}"
        content = [{"type": "image_url", "image_url": {"url": url}}]
        said = asked.chat_completion([{"role": "user", "content": content}], temperature=0.7)
        assert said.choices[0].message.content == text
    finally:
        hub.set_client_factory(hub.utils._http.default_client_factory)


def test_hugging_face_json(client: TestClient, encoded: str, text: str) -> None:
    """As the client of Hugging Face writes an image with parameters."""
    body = {"inputs": encoded, "parameters": {"max_new_tokens": 30}}
    assert client.post("/", json=body).json() == [{"generated_text": text}]


# ---- PhotoPrism


def vision_of(reply: Any) -> dict[str, Any]:
    assert reply.status_code == 200, reply.text
    return dict(reply.json()["result"]["caption"])


def test_photoprism_vision_service(client: TestClient, encoded: str, text: str) -> None:
    """As PhotoPrism asks a vision service, with all that its vision.yml may add."""
    asked = {
        "id": "b0db2187-7a09-438c-8649-a9c6c0f7b8a1",
        "model": "kosmos-2",
        "version": "patch14-224",
        "prompt": "Create a caption with exactly one sentence.",
        "suffix": "",
        "options": {"temperature": 0.1, "top_p": 0.9, "num_ctx": 4096, "stop": ["\n\n"]},
        "stream": False,
        "images": [f"data:image/jpeg;base64,{encoded}"],
    }
    answer = client.post(VISION, json=asked).json()
    assert answer["id"] == asked["id"] and answer["code"] == 200
    assert answer["model"] == {"type": "caption", "name": "everyday", "version": captionkit.__version__}
    assert answer["result"]["caption"]["text"] == text and 0 < answer["result"]["caption"]["confidence"] < 1
    assert vision_of(client.post(VISION, json={"images": [encoded]}))["text"] == text
    assert client.post(VISION, json={"images": [encoded]}).json()["id"]


def test_photoprism_reads_what_went_wrong(client: TestClient) -> None:
    for body, status, reason in (
        ({}, 422, "no image"),
        ({"url": "http://127.0.0.1/a.jpg"}, 422, "url: this service fetches no URLs"),
        ({"images": ["data:image/jpeg;base64,aGVsbG8="]}, 422, "not an image"),
        ({"images": "x"}, 422, "images: "),
    ):
        reply = client.post(VISION, json=body)
        assert reply.status_code == status
        answer = reply.json()
        assert answer["code"] == status and reason in answer["error"] and len(answer["error"].splitlines()) == 1


# ---- recorded requests of programs


def test_photoprism_asks_ollama(client: TestClient, encoded: str, text: str) -> None:
    """With RequestFormat ollama and FileScheme base64, which its guide recommends."""
    asked = {
        "model": "gemma3:latest",
        "prompt": "Create a caption with exactly one sentence in the active voice.",
        "suffix": "",
        "options": {"temperature": 0.1},
        "stream": False,
        "images": [encoded],
    }
    reply = client.post(GENERATE, json=asked).json()
    assert reply["response"] == text and reply["done"] is True


def test_photoprism_asks_openai(client: TestClient, encoded: str, text: str) -> None:
    """With Engine openai, which speaks the Responses API; it reads the first text of the output."""
    asked = {
        "model": "gpt-5-mini",
        "input": [
            {"role": "system", "type": "message", "content": [{"type": "input_text", "text": "You are a captioner."}]},
            {
                "role": "user",
                "type": "message",
                "content": [
                    {"type": "input_text", "text": "Describe the image in one sentence."},
                    {"type": "input_image", "image_url": f"data:image/jpeg;base64,{encoded}", "detail": "low"},
                ],
            },
        ],
        "reasoning": {"effort": "low"},
        "max_output_tokens": 512,
        "temperature": 0.1,
    }
    reply = client.post(RESPONSES, json=asked, headers={"Authorization": "Bearer none"}).json()
    assert reply["error"] is None and reply["output"][0]["content"][0]["text"] == text


def test_immich_analyze(client: TestClient, encoded: str, text: str) -> None:
    asked = {"model": "qwen3-vl:4b", "messages": [{"role": "user", "content": "Describe.", "images": [encoded]}]}
    assert message_of(client.post(CHAT, json={**asked, "stream": False})) == text


def test_llm_vision_of_home_assistant(client: TestClient, model: Any, encoded: str, other: str, text: str) -> None:
    """It checks /api/tags, sends a message for each frame and its prompt last, and asks for a title in text alone."""
    assert client.get("/api/tags").status_code == 200
    options = {"num_predict": 100, "temperature": 0.2, "num_ctx": 2048}
    frames = [
        {"role": "user", "content": "Image 1:", "images": [encoded]},
        {"role": "user", "content": "camera.door:", "images": [other]},
    ]
    asked = {"model": "gemma3:4b", "stream": False, "keep_alive": "5m", "options": options}
    described = {**asked, "messages": [*frames, {"role": "user", "content": "What happens?"}], "system": "You see."}
    second = model.caption(base64.b64decode(other)).text
    assert message_of(client.post(CHAT, json=described)) == f"{text}\n{second}"
    titled = [{"role": "user", "content": "Provide a short title."}, {"role": "user", "content": text}]
    assert "describes images" in message_of(client.post(CHAT, json={**asked, "messages": titled}))

    openai = {
        "model": "gpt-4o-mini",
        "messages": [
            {"role": "system", "content": "You see."},
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "Image 1:"},
                    {"type": "image_url", "image_url": {"url": f"data:image/jpeg;base64,{encoded}"}},
                    {"type": "text", "text": "What happens?"},
                ],
            },
        ],
        "max_completion_tokens": 100,
        "temperature": 0.5,
        "top_p": 0.9,
    }
    reply = client.post("/v1/chat/completions", json=openai).json()
    assert reply["choices"][0]["message"]["content"] == text


def test_frigate(client: TestClient, photo: bytes, text: str) -> None:
    """It shows the model first, then chats through the client of Ollama, with places for the images in its prompt."""
    library = pytest.importorskip("ollama")
    transport = httpx_transport(client, pytest.importorskip("httpx"))
    asked = library.Client("http://testserver", timeout=60, headers=None, transport=transport)
    assert not asked.show("everyday").get("error") and "thinking" not in asked.show("everyday").capabilities
    options = {"temperature": 0.5, "repeat_penalty": 1.05, "presence_penalty": 0.3}
    message = {"role": "user", "content": "Describe the person.\n[img]", "images": [photo]}
    reply = asked.chat("everyday", [message], options=options, keep_alive="1h")
    assert reply["message"]["content"] == text and reply.get("done_reason") == "stop"
    counted = asked.chat("everyday", [{"role": "user", "content": "."}], options={"num_predict": 1})
    assert counted["prompt_eval_count"] == 0


# ---- the service's guards


@pytest.mark.parametrize("path", [GENERATE, CHAT, "/api/show", VISION])
def test_errors_have_the_form_that_clients_read(model: captionkit.Captioner, path: str) -> None:
    with TestClient(create_app(model, Settings(token="t", max_bytes=2000, root_path="/p"))) as guarded:
        assert isinstance(guarded.post(path, json={}).json()["error"], str)
        assert guarded.post(path, json={}).status_code == 401
        headers = {"Authorization": "Bearer t"}
        for reply, status in (
            (guarded.post(path, content=b"x" * 3000, headers=headers), 413),
            (guarded.get(path, headers=headers), 405),
            (guarded.post(f"/p{path}", content=b"{", headers=headers), 400),
            (guarded.post(path, content=b"x", headers={**headers, "Content-Type": "image/jpeg"}), 415),
            (guarded.post(path, json={"model": 3, "images": 3, "messages": 3}, headers=headers), 422),
        ):
            assert reply.status_code == status, reply.text
            assert set(reply.json()) <= {"error", "code"} and isinstance(reply.json()["error"], str)


def test_the_queue_is_the_same(model: captionkit.Captioner, encoded: str) -> None:
    with TestClient(create_app(model, Settings(max_queue=1))) as small:
        two = {"images": [encoded, encoded], "stream": False}
        assert "more than the 1 that may wait" in refused(small.post(GENERATE, json=two), 422)
        assert small.post(GENERATE, json={"images": [encoded]}).status_code == 200
        told = small.get("/metrics").text
        assert 'captionkit_requests_total{path="/api/generate",status="200"} 1.0' in told
        assert 'captionkit_pictures_total{outcome="captioned"} 1.0' in told


def test_answers_are_as_the_openapi_description_says(client: TestClient, encoded: str) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    described = client.get("/openapi.json").json()

    def check(reply: Any, path: str, method: str = "post") -> None:
        answers = described["paths"][path][method]["responses"]
        schema = answers[str(reply.status_code)]["content"]["application/json"]["schema"]
        jsonschema.validate(reply.json(), {**schema, "components": described["components"]})

    ask = {"stream": False, "images": [encoded], "messages": [{"role": "user", "images": [encoded]}], "prompt": "?"}
    for path in (GENERATE, CHAT, VISION):
        check(client.post(path, json=ask), path)
        check(client.post(path, json={"images": 3, "messages": 3}), path)
    check(client.post("/api/show", json={"name": "everyday"}), "/api/show")
    check(client.post("/api/show", json={"name": "x"}), "/api/show")
    check(client.post(RESPONSES, json={"input": "hi"}), RESPONSES)
    for path in ("/api/version", "/api/tags"):
        check(client.get(path), path, "get")
