"""What clients of other services send by their own conventions, in the application itself."""

from __future__ import annotations

import json
from typing import Any

import pytest

import captionkit

pytest.importorskip("fastapi", reason="the extra `serve` is not installed")
pytest.importorskip("httpx2")

from starlette.testclient import TestClient

from captionkit.serve.app import create_app
from captionkit.serve.settings import Settings

CAPTIONS, CHAT = "/v1/captions", "/v1/chat/completions"


@pytest.fixture(scope="module")
def text(model: captionkit.Captioner, photo: bytes) -> str:
    return model.caption(photo).text


def refused(reply: Any, status: int) -> str:
    """The one-line reason of a refusal with this status."""
    assert reply.status_code == status, reply.text
    message = reply.json()["error"]["message"]
    assert message and len(message.splitlines()) == 1
    return str(message)


def said(reply: Any) -> list[str]:
    """The best caption of each image of /v1/captions, or its error."""
    assert reply.status_code == 200, reply.text
    results = reply.json()["results"]
    return [result.get("error") or result["captions"][0]["text"] for result in results]


def chat(client: TestClient, *images: Any, **options: Any) -> Any:
    parts = [{"type": "image_url", "image_url": image} for image in images]
    content = [{"type": "text", "text": "What is this?"}, *parts]
    return client.post(CHAT, json={"messages": [{"role": "user", "content": content}], **options})


def contents(reply: Any) -> list[str]:
    assert reply.status_code == 200, reply.text
    return [choice["message"]["content"] for choice in reply.json()["choices"]]


def test_options_may_have_their_old_names(client: TestClient, encoded: str, photo: bytes, model: Any) -> None:
    want = usual_of(model, photo, num_beams=4, num_captions=2, bad_words=("dog",), no_repeat_ngram_size=2)
    old = {"beam": 4, "num_captions": 2, "banned_words": "dog", "no_repeat": 2}
    replies = [
        client.post(CAPTIONS, json={"image": encoded, **old}),
        client.post(CAPTIONS, params=old, files={"f": photo}),
        client.post(CAPTIONS, data=old, files={"f": photo}),
    ]
    for reply in replies:
        assert [caption["text"] for caption in reply.json()["results"][0]["captions"]] == want
    (generated,) = [client.post("/", json={"inputs": encoded, "parameters": old}).json()]
    assert [one["generated_text"] for one in generated] == want
    both = client.post(CAPTIONS, json={"image": encoded, "beam": 4, "num_beams": 4})
    assert "beam is the old name of num_beams" in refused(both, 422)


def usual_of(captioner: captionkit.Captioner, photo: bytes, **options: Any) -> list[str]:
    best = captioner.caption(photo, **options)
    return [best.text, *(other.text for other in best.alternatives)]


def test_answers_are_as_the_openapi_description_says(client: TestClient, photo: bytes, encoded: str) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    described = client.get("/openapi.json").json()

    def check(path: str, reply: Any, *, method: str = "post", status: str = "200") -> None:
        answers = described["paths"][path][method]["responses"]
        schema = answers[status]["content"]["application/json"]["schema"]
        assert schema, path
        assert reply.status_code == int(status), reply.text
        jsonschema.validate(reply.json(), {**schema, "components": described["components"]})

    for query in ("", "?attention=true&min_confidence=0.5&num_captions=2"):
        files = [("f", ("one.jpg", photo)), ("f", ("bad.jpg", b"?"))]
        check(CAPTIONS, client.post(CAPTIONS + query, files=files))
    check(CAPTIONS, client.post(CAPTIONS, content=b"?"), status="422")
    check("/", client.post("/", content=photo))
    check("/", client.post("/", json={"inputs": [encoded, "%"]}))
    check(CHAT, chat(client, encoded, n=2))
    for path in ("/v1/models", "/healthz", "/readyz"):
        check(path, client.get(path), method="get")
    extra = {**client.post(CAPTIONS, content=photo).json(), "unknown": 1}
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(extra, {**described["components"]["schemas"]["CaptionsAnswer"], **described})


# ---- names, lists and what is left out


@pytest.mark.parametrize("name", ["images", "image", "inputs"])
def test_one_image_or_a_list_under_any_of_the_usual_names(
    client: TestClient, encoded: str, text: str, name: str
) -> None:
    for path in (CAPTIONS, "/"):
        for given in (encoded, [encoded]):
            reply = client.post(path, json={name: given, "num_beams": None, "seed": None})
            assert reply.status_code == 200, reply.text
            assert text in reply.text
        assert "no image" in refused(client.post(path, json={name: []}), 422)
        refused(client.post(path, json={name: None}), 422)
    one, two = [name, "images" if name != "images" else "image"], [name]
    assert "not both" in refused(client.post(CAPTIONS, json=dict.fromkeys(one, encoded)), 422)
    assert client.post(CAPTIONS, json={**dict.fromkeys(one), **dict.fromkeys(two, encoded)}).status_code == 200


def test_one_bad_image_of_several_is_named_and_the_others_are_answered(
    client: TestClient, encoded: str, text: str
) -> None:
    bad = ["*", 7, None, "https://example.com/a.jpg", "file:///etc/passwd", "data:image/png;base64", "", "aGVsbG8="]
    got = said(client.post(CAPTIONS, json={"images": [encoded, *bad, encoded]}))
    assert got[0] == got[-1] == text
    assert all(error.startswith(f"images[{n}]: ") for n, error in enumerate(got[1:-1], 1)), got
    for one, error in zip(bad, got[1:-1], strict=True):
        refused(client.post(CAPTIONS, json={"images": [one]}), 422)
        assert len(error.splitlines()) == 1
    reply = client.post("/", json={"inputs": [encoded, "*", encoded]}).json()
    assert [next(iter(one[0])) for one in reply] == ["generated_text", "error", "generated_text"]
    assert reply[1][0]["error"].startswith("inputs[1]: not in base64")
    lines = contents(chat(client, encoded, "*", {"url": encoded}, n=2))[0].split("\n")
    assert lines[0] == lines[2] == text and lines[1].startswith("[messages[0].content[2]: not in base64")
    assert refused(chat(client, "*", "?"), 422).startswith("messages[0].content[1]: ")
    assert client.get("/metrics").text.count('captionkit_pictures_total{outcome="unusable"}') == 1


def test_forms_as_browsers_and_scripts_send_them(client: TestClient, photo: bytes, encoded: str, text: str) -> None:
    odd = 'a "b"\'; c=\u202e\U0001f600%0A.jpg'
    got = client.post(CAPTIONS, files=[("image", (odd, photo)), ("image", ("b.jpg", b"?")), ("other", photo)])
    assert [one == text for one in said(got)] == [True, False, True]
    assert said(client.post(CAPTIONS, data={"image": encoded}, files={"more": photo})) == [text] * 2
    unchosen = b'--x\r\nContent-Disposition: form-data; name="f"; filename=""\r\n\r\n\r\n'
    chosen = b'--x\r\nContent-Disposition: form-data; name="g"; filename="g.jpg"\r\n\r\n' + photo + b"\r\n"
    form = {"Content-Type": "multipart/form-data; boundary=x"}
    assert said(client.post(CAPTIONS, content=unchosen + chosen + b"--x--\r\n", headers=form)) == [text]
    refused(client.post(CAPTIONS, content=unchosen + b"--x--\r\n", headers=form), 422)
    assert said(client.post("/v1/captions", files=[("f", photo)], data={"force_words": ["dog", "grass"]})) != [text]
    assert "num_beams: is given 2 times" in refused(
        client.post(CAPTIONS, files={"f": photo}, data={"num_beams": ["3", "5"]}), 422
    )
    assert client.post("/", files={"f": photo}).json() == [{"generated_text": text}]


@pytest.mark.parametrize("kind", ["application/octet-stream", "binary/octet-stream", None])
def test_content_types_that_say_nothing(
    client: TestClient, photo: bytes, encoded: str, text: str, kind: str | None
) -> None:
    headers = {"Content-Type": kind} if kind else {}
    ask = json.dumps({"inputs": encoded}).encode()
    talk = json.dumps({"messages": [{"role": "user", "content": [{"image_url": encoded}]}]}).encode()
    for path in (CAPTIONS, "/"):
        for body in (photo, ask, b"\xef\xbb\xbf \r\n" + ask):
            reply = client.post(path, content=body, headers=headers)
            assert reply.status_code == 200 and text in reply.text, (path, reply.text)
        refused(client.post(path, content=b"{\0\1 garbage", headers=headers), 422)
        assert "JSON" in refused(client.post(path, content=b'{"inputs": ', headers=headers), 400)
    assert contents(client.post(CHAT, content=talk, headers=headers)) == [text]


def test_kinds_of_json(client: TestClient, encoded: str, text: str) -> None:
    body = json.dumps({"inputs": encoded})
    wrapped = '{"inputs": "' + "\n".join(encoded[n : n + 76] for n in range(0, len(encoded), 76)) + '\n"}'
    for path in (CAPTIONS, "/"):
        for kind in ("application/json; charset=utf-8", "text/json", "application/vnd.api+json", "APPLICATION/JSON"):
            for sent in (body.encode(), body.encode("utf-8-sig"), body.encode("utf-16"), wrapped.encode()):
                reply = client.post(path, content=sent, headers={"Content-Type": kind})
                assert reply.status_code == 200 and text in reply.text, (kind, sent[:9], reply.text)
    curl = {"Content-Type": "application/x-www-form-urlencoded"}
    assert client.post("/", content=body, headers=curl).json() == [{"generated_text": text}]


# ---- Hugging Face's parameters


def test_hugging_face_parameters(
    client: TestClient, model: captionkit.Captioner, photo: bytes, encoded: str, text: str
) -> None:
    def ask(**parameters: Any) -> Any:
        return client.post("/", json={"inputs": encoded, "parameters": parameters, "options": {"use_cache": False}})

    def texts(**parameters: Any) -> list[str]:
        reply = ask(**parameters)
        assert reply.status_code == 200, reply.text
        return [one["generated_text"] for one in reply.json()]

    assert client.post("/", json={"inputs": encoded}).json() == [{"generated_text": text}]
    assert client.post("/", json={"inputs": encoded, "parameters": None}).json() == [{"generated_text": text}]
    assert texts() == texts(top_k=50, top_p=0.9, do_sample=False, temperature=None) == [text]
    assert texts(max_new_tokens=3) == usual_of(model, photo, max_length=3)
    assert texts(max_new_tokens=1000) == [text]
    assert texts(num_beams=5, num_return_sequences=2) == usual_of(model, photo, num_beams=5, num_captions=2)
    for name in ("generation_parameters", "generate_kwargs"):
        assert texts(**{name: {"num_beams": 1}}) == usual_of(model, photo, num_beams=1)
        assert texts(**{name: None}) == [text]
        assert name in refused(ask(**{name: 3}), 422)
    sampled = usual_of(model, photo, temperature=1.0, seed=7)
    assert texts(do_sample=True, seed=7) == texts(do_sample=True, temperature=1, seed=7, top_k=-1) == sampled
    assert texts(temperature=1, seed=7, top_k=20, top_p=0.9) == [text], "nobody asked to sample"
    assert len({texts(do_sample=True)[0] for _ in range(8)}) > 1, "without a seed, samples differ"
    assert texts(early_stopping=True) == usual_of(model, photo, early_stopping="true")
    assert "early_stopping" in refused(ask(early_stopping="soon"), 422)
    assert "no option early_stop" in refused(ask(early_stop=True), 422)
    assert "max_new_tokens" in refused(ask(max_new_tokens=0), 422)
    assert "parameters" in refused(client.post("/", json={"inputs": encoded, "parameters": [1]}), 422)


# ---- OpenAI's fields


def test_an_image_url_is_an_object_or_a_text(client: TestClient, encoded: str, text: str) -> None:
    url = f"data:image/jpeg;base64,{encoded}"
    for image in (url, encoded, {"url": url}, {"url": url, "detail": "low"}):
        assert contents(chat(client, image)) == [text]
    part = {"type": "input_image", "image_url": url}
    message = {"role": "user", "content": [part]}
    assert contents(client.post(CHAT, json={"messages": [message]})) == [text]
    for nothing in (None, "", {"url": ""}):
        assert "has no image_url" in refused(chat(client, nothing), 422)
    assert refused(chat(client, {"url": 3}), 422).startswith("messages.0.content.1.image_url")
    assert refused(chat(client, encoded, stop=3), 422).startswith("stop: ")


def test_a_chat_without_an_image_is_told_what_the_model_does(client: TestClient) -> None:
    def ask(content: Any, **options: Any) -> Any:
        return client.post(CHAT, json={"messages": [{"role": "user", "content": content}], **options})

    for content in ("hi", "", None, [], [{"type": "text", "text": "hi"}]):
        (answer,) = contents(ask(content))
        assert "everyday" in answer and "describes images" in answer and answer.endswith(".")
    reply = ask("hi", max_tokens=5, n=2).json()
    assert [choice["finish_reason"] for choice in reply["choices"]] == ["length", "length"]
    assert reply["choices"][0]["message"]["content"] == " ".join(answer.split()[:5])
    assert reply["usage"]["completion_tokens"] == 10
    events = ask("hi", stream=True).text
    assert events.endswith("data: [DONE]\n\n") and '" describes"' in events
    refused(ask("hi", temperature=-1), 422)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"response_format": {"type": "json_object"}}, "response_format: captions are plain text, not json_object"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "object"}}}},
            "response_format: captions are plain text, not json_schema",
        ),
        ({"tool_choice": "required"}, "tool_choice: "),
        ({"tool_choice": {"type": "function", "function": {"name": "f"}}}, "tool_choice: "),
        ({"logprobs": True}, "logprobs: "),
        ({"guided_json": {}}, "guided_json: "),
        ({"modalities": ["text", "audio"]}, "modalities: "),
        ({"stream_options": {"include_usage": True}}, "stream_options: "),
        ({"stream": False, "stream_options": {}}, "stream_options: "),
    ],
)
def test_what_captions_cannot_be_is_refused_not_ignored(
    client: TestClient, encoded: str, options: dict[str, Any], reason: str
) -> None:
    assert refused(chat(client, encoded, **options), 400).startswith(reason)
    assert refused(client.post(CHAT, json={"messages": [{"role": "user", "content": "hi"}], **options}), 400)


def test_fields_that_ask_for_nothing_are_let_be(client: TestClient, encoded: str, text: str) -> None:
    harmless: dict[str, Any] = {
        "response_format": {"type": "text"},
        "tools": [{"type": "function", "function": {"name": "f"}}],
        "tool_choice": "auto",
        "logprobs": False,
        "top_logprobs": 0,
        "modalities": ["text"],
        "user": "me",
        "store": False,
        "presence_penalty": 0,
        "stream": False,
        "stream_options": None,
        "stop": None,
    }
    assert contents(chat(client, encoded, **harmless)) == [text]
    assert contents(chat(client, encoded, **dict.fromkeys(harmless))) == [text]


def test_tokens_samples_and_choices_as_the_fields_mean_them(
    client: TestClient, model: captionkit.Captioner, photo: bytes, encoded: str, text: str
) -> None:
    def ask(**options: Any) -> list[str]:
        return contents(chat(client, encoded, **options))

    assert (
        ask(max_tokens=3) == ask(max_completion_tokens=3) == ask(max_tokens="3") == usual_of(model, photo, max_length=3)
    )
    assert ask(max_tokens=9, max_completion_tokens=3) == ask(max_length=9, max_tokens=3) == ask(max_tokens=3)
    assert ask(max_tokens=4096) == ask(max_tokens=-1) == ask(max_tokens=None) == [text]
    refused(chat(client, encoded, max_tokens=0), 422)

    assert ask(n=3) == usual_of(model, photo, num_beams=3, num_captions=3)
    refused(chat(client, encoded, n=0), 422)

    for off in (-1, "-1", 0, 50):  # of no account in a search
        assert ask(top_k=off) == ask(top_k=off, top_p=0.5, temperature=0) == [text]
        assert said(client.post(CAPTIONS, json={"image": encoded, "top_k": min(0, int(off))})) == [text]
    sampled = usual_of(model, photo, temperature=1.0, seed=5)
    drawing = {"do_sample": True, "temperature": 1}
    assert ask(**drawing, seed=5, top_k=-1) == ask(do_sample=True, seed=5) == sampled
    assert ask(temperature=1, seed=5, top_k=40, top_p=0.9) == ask(do_sample=False, temperature=1) == [text]
    assert said(client.post(f"{CAPTIONS}?top_k=-1&temperature=1&seed=5", content=photo)) == sampled
    refused(chat(client, encoded, top_k=-2, temperature=1), 422)
    refused(chat(client, encoded, do_sample="perhaps"), 422)

    for seed in (-7, 2**63, 9223372036854776000):
        assert ask(**drawing, seed=seed) == ask(**drawing, seed=seed)
    assert len({ask(**drawing)[0] for _ in range(8)}) > 1, "without a seed, samples differ"
    assert len({ask(**drawing, seed=-1)[0] for _ in range(8)}) > 1
    assert len({ask(**drawing, seed=4)[0] for _ in range(4)}) == 1


def test_stop(client: TestClient, encoded: str, text: str) -> None:
    words = text.split()
    for stop in (f" {words[2]}", [words[-1] + "zz", f" {words[2]}"]):
        reply = chat(client, encoded, stop=stop).json()
        choice = reply["choices"][0]
        assert reply["usage"]["completion_tokens"] == 2 < len(words)
        assert choice["message"]["content"] == " ".join(words[:2]) and choice["finish_reason"] == "stop"
    assert contents(chat(client, encoded, encoded, stop="\n")) == [text]
    assert contents(chat(client, encoded, stop=[])) == contents(chat(client, encoded, stop="|")) == [text]
    ended = chat(client, encoded, stop=words[2], stream=True).text
    events = [json.loads(line[6:]) for line in ended.splitlines() if line.startswith("data: {")]
    assert "".join(event["choices"][0]["delta"].get("content", "") for event in events) == " ".join(words[:2]) + " "
    for bad in ("", [""], ["a"] * 17):
        refused(chat(client, encoded, stop=bad), 422)


def test_streams(client: TestClient, encoded: str, text: str) -> None:
    def events(**options: Any) -> list[dict[str, Any]]:
        reply = chat(client, encoded, stream=True, **options)
        assert reply.status_code == 200 and reply.headers["content-type"].startswith("text/event-stream")
        *lines, done = [line for line in reply.text.split("\n\n") if line]
        assert done == "data: [DONE]"
        return [json.loads(line.removeprefix("data: ")) for line in lines]

    plain = events(stream_options=None)
    assert all("usage" not in event and event["choices"] for event in plain)
    told = events(stream_options={"include_usage": True}, n=2)
    assert all(event["usage"] is None for event in told[:-1])
    assert told[-1]["choices"] == [] and told[-1]["usage"]["completion_tokens"] > 0
    assert {event["choices"][0]["index"] for event in told[:-1]} == {0, 1}
    assert events(stream_options={"include_usage": None})[-1]["choices"]


def test_openai_client_in_process(client: TestClient, encoded: str, text: str) -> None:
    openai = pytest.importorskip("openai")
    asked = openai.OpenAI(base_url="http://testserver/v1", api_key="x", max_retries=0, http_client=_bridge(client))
    create = asked.chat.completions.create
    part = {"type": "image_url", "image_url": {"url": f"data:image/jpeg;base64,{encoded}"}}
    messages = [{"role": "user", "content": [part]}]
    assert asked.models.retrieve("everyday").owned_by == "captionkit"
    with pytest.raises(openai.NotFoundError, match="there is no model 'gpt'"):
        asked.models.retrieve("gpt")
    assert (
        "describes images" in create(model="x", messages=[{"role": "user", "content": "hi"}]).choices[0].message.content
    )
    with pytest.raises(openai.BadRequestError, match="captions are plain text"):
        create(model="x", messages=messages, response_format={"type": "json_object"})
    chunks = list(create(model="x", messages=messages, stream=True, stream_options={"include_usage": True}))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == text


def _bridge(client: TestClient) -> Any:
    """A client of openai's own httpx whose requests the application answers in this process."""
    plain = pytest.importorskip("httpx")

    def answer(request: Any) -> Any:
        reply = client.request(request.method, str(request.url), content=request.read(), headers=dict(request.headers))
        return plain.Response(reply.status_code, headers=dict(reply.headers), content=reply.content)

    return plain.Client(transport=plain.MockTransport(answer))


# ---- methods and paths


GETS = ("/", "/healthz", "/readyz", "/metrics", "/docs", "/openapi.json", "/v1/models", "/v1/models/everyday")


@pytest.mark.parametrize("path", GETS)
def test_head_and_options_of_every_path_that_is_read(client: TestClient, path: str) -> None:
    full, head = client.get(path), client.head(path)
    assert head.status_code == full.status_code == 200 and head.content == b""
    assert head.headers["content-type"] == full.headers["content-type"]
    options = client.options(path)
    assert options.status_code == 204 and {"GET", "HEAD", "OPTIONS"} <= set(options.headers["allow"].split(", "))
    wrong = client.delete(path)
    assert "DELETE" in refused(wrong, 405) and wrong.headers["allow"] == options.headers["allow"]


def test_methods_of_paths_that_are_written_to(client: TestClient) -> None:
    for path in (CAPTIONS, CHAT):
        for ask in (client.get, client.head, client.put):
            reply = ask(path)
            assert reply.status_code == 405 and reply.headers["allow"] == "OPTIONS, POST"
        assert client.options(path).headers["allow"] == "OPTIONS, POST"
    for method in ("GET", "HEAD", "POST", "OPTIONS"):
        assert client.request(method, "/v1/nothing").status_code == 404
    assert client.post("/v1/nothing").json()["error"]["status"] == 404
    assert 'path="/healthz",status="200"' in client.get("/metrics").text  # whatever the method was


def test_slashes_that_are_too_many(client: TestClient, encoded: str, text: str) -> None:
    for path in ("/v1/captions/", "/v1//captions", "//v1/captions//"):
        assert said(client.post(f"http://testserver{path}", json={"image": encoded})) == [text]
    assert contents(client.post(f"{CHAT}/", json={"messages": [{"role": "user", "content": "hi"}]}))
    for path in GETS[1:]:
        assert client.get(f"{path}/", follow_redirects=False).status_code == 200, path
    refused(client.get("/v1/captions/x"), 404)


def test_tidied_paths_need_the_token_all_the_same(model: captionkit.Captioner) -> None:
    with TestClient(create_app(model, Settings(token="t"))) as guarded:
        for path in ("/metrics/", "//metrics", "/v1/models/", "/healthz/../metrics"):
            refused(guarded.get(f"http://testserver{path}"), 401)
        for prefix in ("/healthz", "/metrics", "/x"):
            refused(guarded.get("/metrics", headers={"X-Forwarded-Prefix": prefix}), 401)
            refused(guarded.get(f"{prefix}/metrics", headers={"X-Forwarded-Prefix": prefix}), 401)
        for ask in (guarded.head, guarded.options):
            assert ask("/metrics").status_code == 401
            assert ask("/healthz/").status_code in (200, 204)
