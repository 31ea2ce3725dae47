"""Imported networks in torch against transformers' own `generate`, without any graph."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("transformers", reason="the extra `train` is not installed")

import pretrained_captioners as tiny
from captionkit.data.special_tokens import SpecialTokens
from captionkit.export.importers.families import FAMILIES, Imported, Request
from captionkit.inference.search import Begun, Decoding, search
from captionkit.models.torch_stepper import TorchStepper

PIXELS = np.random.default_rng(3).standard_normal((6, 3, tiny.SIDE, tiny.SIDE)).astype(np.float32)


@pytest.fixture(scope="module", params=tiny.BUILDERS)
def pair(request: pytest.FixtureRequest) -> tuple[Any, Imported]:
    network = tiny.network_of(request.param)
    asked = Request(network, tiny.tokenizer(), tiny.SIDE, tiny.SIDE, "short")
    return network, FAMILIES[network.config.model_type](asked)


@pytest.mark.parametrize("beam", [1, 3])
def test_search_says_what_generate_says(pair: tuple[Any, Imported], beam: int) -> None:
    network, imported = pair
    # Padding is never generated: transformers counts the positions of some decoders' words without it.
    options = {"num_beams": beam, "max_new_tokens": 12, "bad_words_ids": [[tiny.PAD]]}
    expected = tiny.generate(network, torch.from_numpy(PIXELS), **options)
    stepper = TorchStepper(imported.model)
    decoding = Decoding(num_beams=beam, min_length=0, max_length=12, early_stopping="false")
    special = SpecialTokens(imported.start, imported.end, frozenset((tiny.PAD,)))
    found = search(stepper, Begun(stepper.begin(PIXELS), PIXELS), decoding, special)
    assert [best[0].tokens.tolist() for best in found] == expected
    assert len({tuple(caption) for caption in expected}) > 2, "captions should depend on the image"


def test_attention_is_a_map_or_absent(pair: tuple[Any, Imported]) -> None:
    model = pair[1].model
    one = torch.zeros(2, 1, dtype=torch.long)
    with torch.inference_mode():
        _, attention, _ = model.step(one, one, model.begin(model.encode(torch.from_numpy(PIXELS[:2]))))
    if model.cells is None:
        assert attention.shape == (2, 1, 0)
    else:
        assert attention.shape == (2, 1, model.cells.rows * model.cells.columns)
        np.testing.assert_allclose(attention.sum(-1), 1, atol=1e-5)
