"""Two thousand damaged dataset and result files: each is read or refused by name, in time and in bounded memory.

The files are made here, of small sound ones in every layout, by a seeded generator. `python
tests/data/test_datasets_fuzz.py SEED COUNT` tries others.
"""

from __future__ import annotations

import copy
import csv
import io
import json
import random
import re
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

COUNT = 2_000
_SECONDS = 5  # of a processor that one file may take
_MEMORY = 1 << 30  # bytes of address space that reading may add

TEXTS = {"1.jpg": ["a dog runs", "the dog, wet"], "2.jpg": ["ein Hund läuft"], "3.jpg": ["犬が走る"]}
EACH = [(name, text) for name, texts in TEXTS.items() for text in texts]


def coco() -> dict[str, Any]:
    captions = [{"id": n, "image_id": int(name[0]), "caption": text} for n, (name, text) in enumerate(EACH)]
    return {"images": [{"id": int(name[0]), "file_name": name} for name in TEXTS], "annotations": captions}


def table(header: list[str], delimiter: str = ",") -> bytes:
    buffer = io.StringIO()
    csv.writer(buffer, delimiter=delimiter).writerows(
        [header, *([n, name, text] for n, (name, text) in enumerate(EACH))]
    )
    return buffer.getvalue().encode()


def archive() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, texts in TEXTS.items():
            members = {name: b"x" * 700, f"{name[0]}.txt": "\n".join(texts).encode(), f"{name[0]}.json": b'["x"]'}
            for member, content in members.items():
                info = tarfile.TarInfo(member)
                info.size, info.mtime = len(content), 1.5  # a pax header before each
                tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def plain(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode()


def lines(values: list[Any]) -> bytes:
    return b"".join(plain(value) + b"\n" for value in values)


KARPATHY = {"images": [{"filename": n, "imgid": i, "split": "train", "sentences": [{"raw": t} for t in texts]}
                       for i, (n, texts) in enumerate(TEXTS.items())]}  # fmt: skip
RESULTS = [{"image_id": int(name[0]), "caption": texts[0]} for name, texts in TEXTS.items()]
PRINTED = [{"path": name, "captions": [{"text": texts[0], "log_prob": -1.0}]} for name, texts in TEXTS.items()]
RECORDS = [{"image": name, "caption": texts, "split": "val"} for name, texts in TEXTS.items()]

#: what is read as a dataset: the place of a file, and its content
DATASETS: dict[str, bytes] = {
    "annotations/captions_train2014.json": plain(coco()),
    "dataset_x.json": plain(KARPATHY),
    "train/captions.json": plain({name[0]: texts for name, texts in TEXTS.items()}),
    "metadata.jsonl": lines([{"file_name": name, "text": texts} for name, texts in TEXTS.items()]),
    "metadata.csv": table(["", "file_name", "text"]),
    "list.csv": table(["id", "image", "caption"], ";"),
    "list.tsv": table(["split", "image", "caption"], "\t"),
    "captions.txt": "".join(f"{name},{text}\n" for name, text in EACH).encode(),
    "Flickr8k.token.txt": "".join(f"{name}#0\t{text}\n" for name, text in EACH).encode(),
    "blip.json": plain(RECORDS),
    "by_file.json": plain(TEXTS),
    "wrapped.json": plain({"info": {}, "train": RECORDS}),
    "captions_excel.csv": table(["id", "image", "caption"], "\t").decode().encode("utf-16"),
    "1.txt": "\n".join(TEXTS["1.jpg"]).encode(),
    "1.json": plain({"caption": TEXTS["1.jpg"]}),
    "train-0.tar": archive(),
}
#: what is read as results
CANDIDATES: dict[str, bytes] = {
    "r.json": plain(RESULTS),
    "keys.json": plain({name[0]: [{"caption": texts[0]}] for name, texts in TEXTS.items()}),
    "wrapped.json": plain({"results": RESULTS}),
    "r.jsonl": lines(RESULTS),
    "printed.jsonl": lines(PRINTED),
    "r.csv": table(["id", "image", "caption"]),
    "r.tsv": table(["rank", "path", "caption"], "\t"),
}

ODD_VALUES: list[Any] = [
    *(None, True, -1, 1.5, 1e308, 10**30, float("nan"), float("inf")),
    *("", "nan", "\ud800", "../x.jpg", "['a', 'b", "x" * 5000, "\0", "1.0"),
    *([], {}, [[]], [None], ["a", 3], {"a": []}, {"caption": {"raw": 3}}),
]
ODD_BYTES = [
    *(b"\0", b"\xff\xfe", b"\xef\xbb\xbf", b"\r", b"\n", b'"', b"'", b",", b'["', b"#0\t", b"sep=,\n", b"\\ud83d"),
    *(b"[" * 3000, b"{" * 3000, b"9" * 5000, b"NaN", b"-Infinity", b"1e999", b"\x80\0\0\0\xff\xff\xff\xff"),
]
Mutation = Callable[[bytes, random.Random], bytes]


def flipped(content: bytes, chance: random.Random) -> bytes:
    changed = bytearray(content)
    for _ in range(chance.randint(1, 12)):
        changed[chance.randrange(len(changed))] = chance.randrange(256)
    return bytes(changed)


def cut(content: bytes, chance: random.Random) -> bytes:
    start, end = sorted(chance.choices(range(len(content) + 1), k=2))
    return chance.choice(
        [content[:end], content[start:], content[:start] + content[end:], content[:end] + content[start:]]
    )


def stuffed(content: bytes, chance: random.Random) -> bytes:
    place = chance.randrange(len(content) + 1)
    return content[:place] + chance.choice(ODD_BYTES) + content[place:]


def shuffled(content: bytes, chance: random.Random) -> bytes:
    """Fields, or what else stands between separators, in another order."""
    separator = chance.choice([b",", b"\n", b"\t", b'"', b" "])
    parts = content.split(separator)
    chance.shuffle(parts)
    return separator.join(parts)


def revalued(content: bytes, chance: random.Random) -> bytes:
    """JSON with values of other types, wherever they stand, and with keys that stand twice."""
    try:
        values = [json.loads(line) for line in content.split(b"\n") if line]
    except (ValueError, RecursionError):
        values = []
    if not values:
        return stuffed(content, chance)
    for _ in range(chance.randint(1, 3)):
        _change(chance.choice(values), chance)
    made = "\n".join(json.dumps(value) for value in values)
    if chance.random() < 0.3:
        made = made.replace("{", '{"image": 1, "caption": "x", "1": "y", ', 1)
    if chance.random() < 0.1:
        depth = chance.choice([50, 900, 20_000])
        made = re.sub(r'"[^"]*"', lambda _: "[" * depth + "]" * depth, made, count=1)
    return made.encode("utf-8", "surrogatepass")


def _change(value: Any, chance: random.Random) -> None:
    while isinstance(value, (dict, list)) and value:
        key = chance.choice(list(value)) if isinstance(value, dict) else chance.randrange(len(value))
        if chance.random() < 0.4 or not isinstance(value[key], (dict, list)):
            if isinstance(value, dict) and chance.random() < 0.3:
                value[str(chance.choice(ODD_VALUES))] = value.pop(key)
            else:
                value[key] = copy.deepcopy(chance.choice(ODD_VALUES))
            return
        value = value[key]


def broken_header(content: bytes, chance: random.Random) -> bytes:
    """A tar archive with one header changed and, mostly, its checksum right."""
    if len(content) < 512:
        return stuffed(content, chance)
    place = 512 * chance.randrange(len(content) // 512)
    header = bytearray(content[place : place + 512])
    start, size = chance.choice([(0, 100), (124, 12), (156, 1), (157, 100), (257, 6)])
    header[start : start + size] = (
        chance.choice([b"\xff", b"\x80", b"7", b"\0", b"/", b"../", b"x", b"L", b"2"])[:1] * size
    )
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return content[:place] + bytes(header) + content[place + 512 :]


MUTATIONS: list[Mutation] = [flipped, cut, stuffed, shuffled, revalued]


def mutated(content: bytes, name: str, chance: random.Random) -> bytes:
    for _ in range(chance.choice([1, 1, 1, 2, 3])):
        ways = [*MUTATIONS, broken_header, broken_header] if name.endswith(".tar") else MUTATIONS
        content = (chance.choice(ways)(content, chance) or b" ")[: 1 << 20]
    return content


def try_them(folder: Path, seed: int, count: int) -> None:
    """Read mutated files, `count` of them, each announced beforehand. Raises whatever is no CaptionkitError."""
    from captionkit.data.layouts import inspect_dataset, open_dataset
    from captionkit.errors import CaptionkitError
    from captionkit.metrics.caption_files import read_candidates, read_references
    from captionkit.metrics.matching import pair

    kinds = [*((name, content, True) for name, content in DATASETS.items()),
             *((name, content, False) for name, content in CANDIDATES.items())]  # fmt: skip
    references = {int(name[0]): texts for name, texts in TEXTS.items()}
    wrote = read_references(references)
    for number in range(count):
        chance = random.Random(f"{seed}:{number}")
        name, content, is_dataset = kinds[number % len(kinds)]
        root = folder / name.replace("/", "-").replace(".", "-")
        file = root / name
        if not file.exists():
            for image in ("images/1.jpg", "2.jpg", "train/image/000000000003.jpg") * (not name.endswith(".tar")):
                (root / image).parent.mkdir(parents=True, exist_ok=True)
                (root / image).touch()
            file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(mutated(content, name, chance))
        print(number, name, flush=True)
        if is_dataset:
            steps: list[Callable[[], object]] = [
                lambda root=root: str(inspect_dataset(open_dataset(root))),
                lambda file=file: json.dumps(open_dataset(file).problems, default=vars),
                lambda file=file: read_references(file),
            ]
        else:
            steps = [lambda file=file: pair(read_candidates(file), wrote)]
        for step in steps:
            try:
                step()
            except CaptionkitError as error:
                if "\n" in str(error):
                    raise RuntimeError(f"more than one line: {error}") from None


def watched(seed: int, count: int) -> tuple[int, str, str]:
    """(exit status, what was printed last, errors) of `try_them` in a process that is ended when it hangs."""
    with tempfile.TemporaryDirectory() as folder:
        process = subprocess.run(
            [sys.executable, __file__, "--try", folder, str(seed), str(count)],
            capture_output=True,
            text=True,
            timeout=1000,
        )
    return process.returncode, (process.stdout.splitlines() or [""])[-1], process.stderr


def main(folder: str, seed: str, count: str) -> None:
    import faulthandler
    import os
    import resource

    os.environ["CAPTIONKIT_CACHE"] = str(Path(folder, "cache"))
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + _MEMORY, size + _MEMORY))
    written = sys.stdout.write

    def write(text: str) -> int:  # each file is announced: from then on it has its seconds
        if text.strip():
            resource.setrlimit(resource.RLIMIT_CPU, (int(sum(os.times()[:2])) + 1 + _SECONDS, resource.RLIM_INFINITY))
        return written(text)

    faulthandler.enable()
    sys.stdout.write = write  # type: ignore[method-assign]
    try_them(Path(folder), int(seed), int(count))


@pytest.mark.parametrize("count", [200, pytest.param(COUNT, marks=pytest.mark.slow)])
def test_damaged_files_are_read_or_refused(count: int) -> None:
    status, last, errors = watched(0, count)
    assert status == 0, f"{last}: {errors[-3000:]}"
    assert last.startswith(f"{count - 1} ")


def test_each_sound_file_is_read(tmp_path: Path) -> None:
    """What is damaged above is worth damaging."""
    from captionkit.data.layouts import open_dataset
    from captionkit.metrics.caption_files import read_candidates

    for name, content in DATASETS.items():
        root = tmp_path / name.replace("/", "-")
        for image in (*TEXTS, *(f"train/image/{n:012}.jpg" for n in (1, 2, 3))) * (not name.endswith(".tar")):
            (root / image).parent.mkdir(parents=True, exist_ok=True)
            (root / image).touch()
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
        captioned = {example.name for split in open_dataset(root).values() for example in split if example.captions}
        assert len(captioned) == (1 if name in ("1.txt", "1.json") else 3), name
    (tmp_path / "results").mkdir()
    for name, content in CANDIDATES.items():
        file = tmp_path / "results" / name
        file.write_bytes(content)
        assert len(read_candidates(file).captions) == (1 if name == "r.tsv" else 3), name  # of ranks, the first


if __name__ == "__main__":
    if sys.argv[1:2] == ["--try"]:
        main(*sys.argv[2:])
    else:
        print(*watched(int(sys.argv[1]), int(sys.argv[2])), sep="\n")
