"""Seconds and memory of captionkit's metrics against pycocoevalcap's, on the same captions (needs Java).

    python bench/metrics.py REFERENCES CANDIDATES [--images 5000 40000] [--rounds 3] [--save FILE]

REFERENCES and CANDIDATES are what `captionkit score` takes. A size above that of the files repeats their images under
other ids. Each measurement is a process of its own, in which time runs from the captions in memory to the scores, the
start of Java and METEOR's data included; contenders take turns, round by round. Memory is the peak of the process and
of the Java it starts. Prints medians, their ratios, and the largest difference between the contenders' corpus scores.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import platform
import resource
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from itertools import cycle, islice
from pathlib import Path

from tables import add_save, table, tell

PARTS = {"tokens, BLEU, ROUGE-L, CIDEr-D": ("bleu", "rouge", "cider"), "tokens, METEOR": ("meteor",)}
Captions = tuple[dict[str, str], dict[str, list[str]]]


def ours(said: dict[str, str], written: dict[str, list[str]], metrics: list[str]) -> dict[str, float]:
    from captionkit import evaluate

    return dict(evaluate(said, written, metrics, tokenizer="ptb", resamples=0))


def theirs(said: dict[str, str], written: dict[str, list[str]], metrics: list[str]) -> dict[str, float]:
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.meteor.meteor import Meteor
    from pycocoevalcap.rouge.rouge import Rouge
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    makers = {"bleu": lambda: Bleu(4), "rouge": Rouge, "cider": Cider, "meteor": Meteor}
    names = {"rouge": "ROUGE-L", "cider": "CIDEr-D", "meteor": "METEOR"}
    truth = PTBTokenizer().tokenize({key: [{"caption": c} for c in some] for key, some in written.items()})
    tokens = PTBTokenizer().tokenize({key: [{"caption": c}] for key, c in said.items()})
    found: dict[str, float] = {}
    for name in metrics:
        value, _ = makers[name]().compute_score(truth, tokens)
        found |= {f"BLEU-{n}": v for n, v in enumerate(value, 1)} if name == "bleu" else {names[name]: float(value)}
    return found


def worker(contender: str, file: Path, metrics: list[str]) -> None:
    """Measure one contender in this process; prints a JSON line."""
    said, written = json.loads(file.read_text(encoding="utf-8"))
    with contextlib.redirect_stdout(io.StringIO()):
        start = time.perf_counter()
        scores = {"ours": ours, "theirs": theirs}[contender](said, written, metrics)
        seconds = time.perf_counter() - start
    peaks = [resource.getrusage(who).ru_maxrss / 1024 for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    print(json.dumps({"seconds": seconds, "megabytes": sum(peaks), "scores": scores}))


def measure(contender: str, file: Path, metrics: tuple[str, ...]) -> dict:
    command = [sys.executable, __file__, "--worker", contender, "--metrics", ",".join(metrics), str(file), ""]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{contender} failed: {done.stderr.strip().splitlines()[-1]}")
    return json.loads(done.stdout.splitlines()[-1])


def captions_of(references: str, candidates: str) -> list[tuple[str, list[str]]]:
    """(candidate, references) of each image that has both."""
    from captionkit.metrics.caption_files import read_candidates, read_references
    from captionkit.metrics.matching import pair

    pairs = pair(read_candidates(candidates), read_references(references))
    return [(said, list(some)) for said, some in zip(pairs.candidates, pairs.references, strict=True)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("references")
    parser.add_argument("candidates")
    parser.add_argument("--images", type=int, nargs="+", default=[5000, 40000])
    parser.add_argument("--rounds", type=int, default=3)
    add_save(parser, "metrics")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--metrics", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        worker(options.worker, Path(options.references), options.metrics.split(","))
        return

    captions = captions_of(options.references, options.candidates)
    machine = f"{platform.processor() or platform.machine()}, Python {platform.python_version()}"
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        for images in options.images:
            chosen = dict(enumerate(islice(cycle(captions), images)))
            said, written = ({f"i{key}": pair[side] for key, pair in chosen.items()} for side in (0, 1))
            file = Path(scratch) / f"{images}.json"
            file.write_text(json.dumps([said, written]), encoding="utf-8")
            for what, metrics in PARTS.items():
                rounds = [[measure(who, file, metrics) for who in ("ours", "theirs")] for _ in range(options.rounds)]
                rows.append(row(images, what, rounds))
                print(*rows[-1], file=sys.stderr, flush=True)
    told = f"`{shlex.join(['python', 'bench/metrics.py', options.references, options.candidates])}`; {machine}; "
    tell([f"{told}median of {options.rounds} rounds.", table(COLUMNS, rows)], options.save)


COLUMNS = (
    *("images", "what", "captionkit", "pycocoevalcap", "times faster"),
    *("MB, captionkit", "MB, pycocoevalcap", "largest difference"),
)


def row(images: int, what: str, rounds: list[list[dict]]) -> list[str]:
    one, other = zip(*rounds, strict=True)
    seconds = [statistics.median(r["seconds"] for r in side) for side in (one, other)]
    megabytes = [statistics.median(r["megabytes"] for r in side) for side in (one, other)]
    ratio = statistics.median(b["seconds"] / a["seconds"] for a, b in rounds)
    apart = max(abs(value - other[0]["scores"][name]) for name, value in one[0]["scores"].items())
    times = [f"{value:.2f} s" for value in seconds]
    return [f"{images:,}", what, *times, f"{ratio:.1f}", *(f"{value:.0f}" for value in megabytes), f"{apart:.1e}"]


if __name__ == "__main__":
    main()
