"""Base64 in every spelling that clients use, and bounds that hold before it is decoded."""

from __future__ import annotations

import base64
import tracemalloc
from urllib.parse import quote

import numpy as np
import pytest

pytest.importorskip("fastapi", reason="the extra `serve` is not installed")

from captionkit.serve.base64_images import decode, scheme_of
from captionkit.serve.errors import RefusalError
from tiers import slow

#: of lengths that need every padding, with bytes that need every letter
SAMPLES = [np.random.default_rng(length).bytes(length) + b"\xfb\xff\xfe" for length in range(1, 60)]
MOST = 10**6


def spellings(data: bytes) -> dict[str, str]:
    standard = base64.b64encode(data).decode()
    safe = base64.urlsafe_b64encode(data).decode()
    lines = base64.encodebytes(data).decode()
    bodies = {
        "standard": standard,
        "unpadded": standard.rstrip("="),
        "url-safe": safe,
        "url-safe, unpadded": safe.rstrip("="),
        "lines": lines,
        "lines of Windows": "\r\n" + lines.replace("\n", "\r\n"),
        "spaces": f" \t{standard[:4]} {standard[4:]} ",
        "percent-encoded": quote(standard, safe=""),
        "percent-encoded lines": quote(lines, safe=""),
        "every letter percent-encoded": "".join(f"%{ord(letter):02x}" for letter in standard),
    }
    heads = [
        "data:image/jpeg;base64,",
        "data:;base64,",
        "DATA:IMAGE/JPEG;BASE64,",
        "data:image/jpeg;name=a.jpg;charset=utf-8;base64,",
        "data:image/jpeg; base64, ",
        "\n data:image%2Fjpeg;base64,",
    ]
    whole = {"whole URL percent-encoded": quote(heads[0] + standard, safe="")}
    return {**bodies, **{head + name: head + body for head in heads for name, body in bodies.items()}, **whole}


@pytest.mark.parametrize("data", SAMPLES[:: len(SAMPLES) // 9], ids=len)
def test_spellings(data: bytes) -> None:
    for name, text in spellings(data).items():
        assert decode(text, MOST) == data, name


def test_paddings() -> None:
    for data in SAMPLES:
        assert decode(base64.b64encode(data).decode().rstrip("="), MOST) == data
    assert decode("", MOST) == decode("====", MOST) == b""


def test_a_data_url_that_is_not_in_base64_is_percent_encoded() -> None:
    for data in SAMPLES:
        assert decode("data:image/png," + quote(data, safe=""), MOST) == data
    assert decode("data:,a%20b,c%zz%", MOST) == b"a b,c%zz%"


@pytest.mark.parametrize(
    "text", ["a", "abcde", "ab=c", "aGk=aGk=", "*", "aGk\N{EN DASH}", "\ud800", "a.b", "b'aGk='", "data:;base64,*", "%"]
)
def test_what_is_none_is_refused(text: str) -> None:
    with pytest.raises(RefusalError, match="not in base64") as caught:
        decode(text, MOST)
    assert caught.value.status == 422 and len(str(caught.value).splitlines()) == 1


def test_a_data_url_without_a_comma_is_refused() -> None:
    with pytest.raises(RefusalError, match="comma"):
        decode("data:image/jpeg;base64", MOST)


@pytest.mark.parametrize("head", ["", "data:image/jpeg;base64,"])
def test_bytes_are_bounded_to_the_byte(head: str) -> None:
    for data in SAMPLES[:9]:
        for text in (base64.b64encode(data).decode(), base64.b64encode(data).decode().rstrip("=")):
            assert decode(head + text, len(data)) == data
            with pytest.raises(RefusalError, match="more than") as caught:
                decode(head + text, len(data) - 1)
            assert caught.value.status == 413
    with pytest.raises(RefusalError, match="more than"):
        decode("data:,abc", 2)


@pytest.mark.parametrize("unit", ["%41", *slow("%%%"), "A A ", "a\n", "AAAA", "%4"])
def test_no_text_takes_many_times_its_size(unit: str) -> None:
    text = "data:;base64," + unit * (2**20 // len(unit))
    tracemalloc.start()
    try:
        decode(text, 2**22)
    except RefusalError:
        pass
    finally:
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak < 6 * len(text)


def test_escapes_are_undone_wherever_the_text_is_divided() -> None:
    data = np.random.default_rng(0).bytes(50_000)
    for shift in range(4):
        text = "data:," + "x" * shift + quote(data, safe="")
        assert decode(text, MOST) == b"x" * shift + data
        assert decode("data:," + "%" * (2**13 - 8 + shift) + "%41%41", MOST).endswith(b"%AA")


def test_schemes() -> None:
    texts = ["data:,x", " HTTP://a", "\nhttps://a", "file:///x", "filesystem:x", "aGk=", "a" * 100 + ":", "/9j/4AAQ"]
    assert [scheme_of(text) for text in texts] == ["data", "http", "https", "file", "filesystem", "", "", ""]
