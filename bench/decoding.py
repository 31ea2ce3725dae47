"""Milliseconds a caption: beam search over a whole batch, against the same search without its savings.

    python bench/decoding.py [--model MODEL] [--photos DIR] [--images N] [--beam N] [--rounds N]

- together: what captionkit does. All images in one batch, each hypothesis' state kept from step to step, images that
  are done leaving the batch.
- alone: one image at a time.
- naive: one image at a time, and no state kept: at every step the decoder reads the hypotheses again from their first
  word, the beam together. Written below, over the same graphs.

They must give the same captions, or the comparison ends.

Encoding is the same work for all, and left out. The contenders take turns, round by round.
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any

import numpy as np

import captionkit
from captionkit.cli.inputs import find_inputs
from captionkit.data.images import load_image
from captionkit.inference.captioner import Captioner
from captionkit.inference.search import Begun, Decoding, search
from photos import photo_like

State = dict[str, np.ndarray]


def naive(captioner: Captioner, begun: State, decoding: Decoding) -> list[int]:
    """Beam search for one image over whole prefixes, as `captionkit.inference.search` describes it."""
    text, step, beam, penalty = captioner.tokenizer, captioner.stepper.step, decoding.num_beams, decoding.length_penalty
    banned = [*text.never_generated]
    live: list[tuple[list[int], float]] = [([], 0.0)]
    ended: list[tuple[float, list[int]]] = []
    for length in range(decoding.max_length + 1):
        rows = last_rows(step, begun, [[text.bos_id, *words] for words, _ in live], len(text))
        options = []
        for (words, log_prob), row in zip(live, rows, strict=True):
            row[banned] = -np.inf
            row[[text.eos_id] * (length < decoding.min_length)] = -np.inf
            row[repeating(words, decoding.no_repeat_ngram_size)] = -np.inf
            likely = np.argsort(-row, kind="stable")[: 2 * beam]
            options += [(log_prob + float(row[token]), words, int(token)) for token in likely]
        options.sort(key=lambda option: -option[0])
        for log_prob, words, token in options[:beam]:
            if token == text.eos_id:
                ended.append((log_prob / (length + 1) ** penalty, words))
        if length == decoding.max_length:
            break
        going = [option for option in options[: 2 * beam] if option[2] != text.eos_id][:beam]
        live = [([*words, token], log_prob) for log_prob, words, token in going]
        if ended and max(ended)[0] >= live[0][1] / (decoding.max_length + 1) ** penalty:
            break
    return max(ended)[1] if ended else live[0][0]


def last_rows(step: Any, begun: State, sequences: list[list[int]], vocabulary: int) -> np.ndarray:
    """Log-probabilities [K,V] of what follows K sequences of the same length, read from their beginning."""
    state, parents = begun, np.zeros((1, len(sequences)), np.int64)  # all begin from the one first state
    words = np.array(sequences).T[:, None]  # [K,L] -> [L,1,K]
    for position, tokens in enumerate(words):
        ranks = vocabulary if position == len(words) - 1 else 1
        log_probs, ids, _, state = step(tokens, parents, state, ranks)
        parents = np.arange(len(sequences))[None]
    rows = np.empty((len(sequences), vocabulary))
    np.put_along_axis(rows, ids[0], log_probs[0], axis=1)
    return rows


def repeating(words: list[int], size: int) -> list[int]:
    """What may not follow `words`: the last of them, and what would complete a run of `size` said before."""
    begun = words[len(words) - size + 1 :] if size else None
    runs = range(len(words) - size + 1) if size else ()
    return [*(words[-1:] if size else []), *(words[i + size - 1] for i in runs if words[i : i + size - 1] == begun)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model")
    parser.add_argument("--photos", help="a folder of photos (default: made-up ones)")
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--beam", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()

    captioner = captionkit.load(options.model)
    sources: list[Any] = [photo_like((640, 480), seed) for seed in range(options.images)]
    if options.photos:
        sources = [given.source for given in find_inputs([options.photos])][: options.images]
    images = np.stack([load_image(source, captioner.preprocessing) for source in sources])
    decoding = Decoding(**{**captioner.decoding.to_dict(), "num_beams": options.beam, "num_captions": 1})
    begun = captioner.stepper.begin(images)
    each = [{name: value[i : i + 1] for name, value in begun.items()} for i in range(len(images))]

    def batched(state: State) -> list[list[int]]:
        encoded = Begun(state, images[: len(next(iter(state.values())))])
        found = search(captioner.stepper, encoded, decoding, captioner.tokenizer.special)
        return [captions[0].tokens.tolist() for captions in found]

    contenders = {
        "together": lambda: batched(begun),
        "alone": lambda: [batched(state)[0] for state in each],
        "naive": lambda: [naive(captioner, state, decoding) for state in each],
    }
    times: dict[str, list[float]] = {name: [] for name in contenders}
    said: dict[str, list[list[int]]] = {}
    for _ in range(options.rounds):
        for name, work in contenders.items():
            start = time.perf_counter()
            said[name] = work()
            times[name].append((time.perf_counter() - start) * 1000 / len(images))
    for name, captions in said.items():
        if captions != said["together"]:
            raise SystemExit(f"{name} gives other captions than together; nothing to compare")
    words = statistics.mean(map(len, said["together"]))
    print(f"{len(images)} images, beam {options.beam}, {words:.1f} words a caption; {options.rounds} rounds")
    print("median (least) milliseconds a caption, and the median ratio of a round to `together`")
    for name, values in times.items():
        ratio = statistics.median(value / ours for value, ours in zip(values, times["together"], strict=True))
        print(f"{name:10} {statistics.median(values):9.2f} ({min(values):.2f}) {ratio:8.2f}")


if __name__ == "__main__":
    main()
