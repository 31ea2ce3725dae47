"""Beam search by transformers' rules finds what `generate` finds."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from captionkit.data.special_tokens import SpecialTokens  # noqa: E402
from captionkit.errors import CaptionkitError  # noqa: E402
from captionkit.inference.search import Begun, Constraints, Decoding, search  # noqa: E402
from tiers import slow  # noqa: E402

END, VOCABULARY = 0, 14


class WholePrefixes:
    """A language model that reads each hypothesis from its start; its state is their tokens."""

    takes_bytes = False
    capabilities = frozenset(("constraints",))

    def __init__(self, model: Any) -> None:
        self.model = model

    def keep(self, state, rows):
        return [state[row] for row in rows]

    def overview(self, state):
        return None

    @torch.inference_mode()
    def step(self, tokens, parents, state, top_k):
        state = [
            [prefixes[parent] + [int(token)] for token, parent in zip(*row, strict=True)]
            for prefixes, *row in zip(state, tokens, parents, strict=True)
        ]
        read = torch.tensor([prefix for prefixes in state for prefix in prefixes])
        top = self.model(read).logits[:, -1].log_softmax(-1).topk(min(top_k, VOCABULARY))
        log_probs, ids = (part.reshape(*tokens.shape, -1).numpy() for part in top)
        return log_probs, ids, np.empty((*tokens.shape, 0), np.float32), state


@pytest.fixture(scope="module")
def model() -> Any:
    torch.manual_seed(0)
    sizes = {"vocab_size": VOCABULARY, "n_positions": 64, "n_embd": 32, "n_layer": 2, "n_head": 2}
    config = transformers.GPT2Config(**sizes, initializer_range=0.7, bos_token_id=END, eos_token_id=END)
    return transformers.GPT2LMHeadModel(config).eval()


@pytest.mark.parametrize("most", [4, *slow(12)])
@pytest.mark.parametrize(
    ("settings", "ours"),
    [
        ({"num_beams": 1}, {}),
        ({"num_beams": 3}, {}),
        ({"num_beams": 3, "early_stopping": True}, {"early_stopping": "true"}),
        ({"num_beams": 4, "length_penalty": 0.0}, {"length_penalty": 0.0}),
        (
            {"num_beams": 4, "length_penalty": 2.0, "early_stopping": "never"},
            {"length_penalty": 2.0, "early_stopping": "never"},
        ),
        ({"num_beams": 3, "no_repeat_ngram_size": 2}, {"no_repeat_ngram_size": 2}),
        ({"num_beams": 3, "min_new_tokens": 4}, {"min_length": 4}),
        ({"num_beams": 3, "forced_eos_token_id": END}, {}),
        ({"num_beams": 1, "forced_eos_token_id": END}, {}),
        ({"num_beams": 3, "bad_words_ids": [[5], [7, 8], [3, 1]]}, {}),
    ],
)
def test_tokens_are_those_of_generate(model: Any, settings: dict[str, Any], ours: dict[str, Any], most: int) -> None:
    prompts = np.random.default_rng(0).integers(1, VOCABULARY, (12, 4))
    with torch.inference_mode():
        made = model.generate(
            torch.from_numpy(prompts),
            attention_mask=torch.ones(12, 4, dtype=torch.long),
            do_sample=False,
            max_new_tokens=most,
            pad_token_id=END,
            **settings,
        )
    expected = [row[4:].tolist() for row in made]
    expected = [row[: row.index(END)] if END in row else row for row in expected]
    decoding = Decoding(
        **{"num_beams": settings["num_beams"], "max_length": most, "min_length": 0, "early_stopping": "false", **ours}
    )
    constraints = Constraints(banned=tuple(map(tuple, settings.get("bad_words_ids", []))))
    forced = "forced_eos_token_id" in settings
    stepper = WholePrefixes(model)
    found = []
    for prompt in prompts:
        special = SpecialTokens(tuple(prompt.tolist()), END, forced_end=forced)
        ((best, *_),) = search(stepper, Begun([[[]]], np.zeros((1, 1))), decoding, special, constraints=constraints)
        found.append(best.tokens.tolist())
    assert found == expected
    assert len({len(caption) for caption in found}) > 1 or most == 4, "captions of all lengths, or nothing is tried"
    # Together, what the last two tokens of the prompts lead to is the same.
    special = SpecialTokens((1, 2), END, forced_end=forced)
    begun = Begun([[[]] for _ in range(3)], np.zeros((3, 1)))
    several = search(stepper, begun, decoding, special, constraints=constraints)
    assert len({tuple(captions[0].tokens.tolist()) for captions in several}) == 1


def test_unknown_ways_to_stop_are_refused() -> None:
    with pytest.raises(CaptionkitError, match="early_stopping is 'soon'; use one of exact, false, true, never"):
        Decoding(early_stopping="soon")
