"""Decoders for tests: a random model of whole prefixes, behind the Stepper contract, which it checks."""

from __future__ import annotations

import itertools
from functools import cache

import numpy as np

from captionkit.data.special_tokens import SpecialTokens
from captionkit.inference.search import Begun, Constraints, Decoding, Hypothesis, search

PAD, BOS, EOS, UNK = range(4)
BANNED = (PAD, BOS, UNK)


class RandomModel:
    """A random distribution for each (image, prefix). Attention spells the prefix, so that it shows its ancestry."""

    def __init__(
        self,
        words: int,
        *,
        seed: int = 0,
        end: float = 0,  # added to the logit of the end token
        specials: float = 0,  # ... and of those in BANNED
        zeros: float = 0,  # share of tokens that are impossible
        ties: bool = False,
    ) -> None:
        self.size, self.seed = 4 + words, seed
        self.end, self.specials, self.zeros, self.ties = end, specials, zeros, ties
        self.log_probs = cache(self._log_probs)

    def _log_probs(self, image: int, prefix: tuple[int, ...]) -> np.ndarray:
        random = np.random.default_rng([self.seed, image, *prefix])
        if self.ties:
            return -random.integers(1, 6, self.size).astype(np.float32) / 4  # sums are exact, and many are equal
        logits = random.normal(0, 2, self.size)
        logits[list(BANNED)] += self.specials
        logits[EOS] += self.end
        log_probs = logits - np.log(np.exp(logits).sum())
        log_probs[random.random(self.size) < self.zeros] = -np.inf
        return log_probs.astype(np.float32)

    @staticmethod
    def attention(image: int, prefix: tuple[int, ...]) -> np.ndarray:
        return np.array([image, *prefix, *[-1] * (40 - len(prefix))], np.float32)


class RandomStepper:
    """RandomModel behind the contract, which it checks. Its state is each beam's prefix, moved by `parents` alone."""

    takes_bytes = False
    capabilities = frozenset(("attention", "constraints"))

    def __init__(self, model: RandomModel) -> None:
        self.model = model
        self.steps, self.top_ks = 0, set[int]()
        self.computed = 0  # images, over all steps

    def begin(self, images: np.ndarray) -> list[tuple[int, list[tuple[int, ...]]]]:
        return [(int(image[0, 0, 0]), [()]) for image in images]

    def keep(self, state, rows):
        assert rows.dtype == np.int64
        assert (np.diff(rows) > 0).all()
        assert 0 < len(rows) < len(state)
        return [state[row] for row in rows]

    def overview(self, state):
        return None

    def step(self, tokens, parents, state, top_k):
        assert tokens.dtype == parents.dtype == np.int64
        assert tokens.shape == parents.shape
        if not self.steps:
            assert tokens.tolist() == [[BOS]] * len(state)
            assert not parents.any()
        self.steps += 1
        self.computed += len(state)
        self.top_ks.add(top_k)
        state = [
            (image, [prefixes[parent] + (int(token),) for token, parent in zip(*row, strict=True)])
            for (image, prefixes), *row in zip(state, tokens, parents, strict=True)
        ]
        full = np.array([[self.model.log_probs(image, p[1:]) for p in prefixes] for image, prefixes in state])
        ids = np.argsort(-full, axis=-1, kind="stable")[..., :top_k]
        attention = np.array([[self.model.attention(image, p[1:]) for p in prefixes] for image, prefixes in state])
        return np.take_along_axis(full, ids, -1), ids, attention, state


def pictures(*images: int) -> np.ndarray:
    return np.array(images, np.float32).reshape(-1, 1, 1, 1) * np.ones((1, 3, 2, 2), np.float32)


def run(
    model: RandomModel,
    decoding: Decoding,
    *images: int,
    banned=BANNED,
    stepper: RandomStepper | None = None,
    constraints: Constraints | None = None,
) -> list[list[Hypothesis]]:
    stepper = stepper or RandomStepper(model)
    begun = Begun(stepper.begin(batch := pictures(*images)), batch)
    return search(stepper, begun, decoding, SpecialTokens((BOS,), EOS, frozenset(banned)), constraints=constraints)


def brief(hypotheses: list[Hypothesis]) -> list[tuple[list[int], bool]]:
    return [(h.tokens.tolist(), h.finished) for h in hypotheses]


def repeats(words: list[int], size: int) -> bool:
    """Whether `words` end in a run of `size` words that they hold already, or in a word that follows itself."""
    if not size:
        return False
    runs = [tuple(words[i : i + size]) for i in range(len(words) - size + 1)]
    return len(set(runs)) < len(runs) or any(a == b for a, b in itertools.pairwise(words))
