"""Self-critical sequence training (SCST, Rennie et al. 2017, arXiv 1612.00563).

Sampled captions become more likely if their reward is above the baseline of their image, and less likely if it is
below. The gradient is that of -sum (r(w) - b) log p(w), equations 6 and 9, over the samples w of an image. Samples are
drawn in evaluation mode and trained on with dropout, like reference captions: without dropout the rewards of training
images rise faster, and those of other images less.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from captionkit.data.tokenizer import Tokenizer
from captionkit.models.captioning_model import CaptioningModel
from captionkit.models.decoder import Decoded, PackedCaptions, Padding
from captionkit.training.config.decoding import DECODING
from captionkit.training.config.recipe import Recipe
from captionkit.training.data.collate import pack
from captionkit.training.data.dataset import CaptionDataset
from captionkit.training.data.random_streams import SAMPLES
from captionkit.training.objectives.rewards import CiderReward, advantages
from captionkit.training.objectives.sampling import banned_ids, mask_banned, sample_captions
from captionkit.training.step_metrics import StepMetrics


class Rollout(NamedTuple):
    """K sampled captions for each of B images, with their rewards, which are computed in the background."""

    captions: PackedCaptions
    targets: Tensor  # [P]: the word after each of captions.tokens
    #: for each packed caption, its index among the samples in image order, [B*K]
    order: list[int]
    #: rewards and advantages of the samples in image order, each [B*K]
    scored: Future[tuple[np.ndarray, np.ndarray]]
    #: number of distinct samples of an image, summed over images
    distinct: int


class SelfCriticalLoss:
    """Samples captions of training images, rewards them, and computes the SCST objective."""

    def __init__(self, dataset: CaptionDataset, tokenizer: Tokenizer, recipe: Recipe) -> None:
        self._tokenizer, self._seed, self._recipe = tokenizer, recipe.trainer.seed, recipe.self_critical
        references = [example.captions for example in dataset.examples]
        self._reward = CiderReward(references, tokenizer, self._recipe.bleu4)
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="captionkit-reward")

    def captions(self, images: int) -> int:
        """Return how many samples are drawn for the given number of images."""
        return images * self._recipe.samples

    def rollout(self, model: CaptioningModel, memory: Tensor, turns: Sequence[int], places: Sequence[int]) -> Rollout:
        """Sample captions of the images at `places` in the split, with `memory` [B,G,D] and repetition counts `turns`.

        Rewards are computed in a background thread.
        """
        greedy = self._recipe.baseline == "greedy"
        sampled = sample_captions(
            model,
            memory,
            self._uniforms(turns, places, greedy),
            self._tokenizer,
            self._recipe.temperature,
            greedy=greedy,
        )
        scored = self._pool.submit(self._score, places, sampled)
        samples = [captions[greedy:] for captions in sampled]
        flat = [(caption, row) for row, captions in enumerate(samples) for caption in captions]
        order = sorted(range(len(flat)), key=lambda place: -len(flat[place][0]))
        captions, targets = pack([([self._tokenizer.bos_id, *flat[place][0]], flat[place][1]) for place in order])
        distinct = sum(len(set(map(tuple, captions))) for captions in samples)
        return Rollout(captions.to(memory.device), targets.to(memory.device), order, scored, distinct)

    def objective(self, decoded: Decoded, rollout: Rollout) -> tuple[Tensor, StepMetrics]:
        """Return the objective, summed over the samples, and the step's metrics; waits for the rewards."""
        never = banned_ids(self._tokenizer, decoded.logits.device)
        log_probs = mask_banned(decoded.logits.float(), never, self._recipe.temperature).log_softmax(-1)  # [P,V]
        chosen = log_probs.gather(1, rollout.targets.unsqueeze(1)).squeeze(1)  # [P,V] -> [P,1] -> [P]
        rewards, better = rollout.scored.result()
        worth = torch.from_numpy(better[rollout.order]).to(chosen)  # [N]
        words = worth[Padding(rollout.captions.sizes, chosen.device).caption]  # [N] -> [P]
        metrics = StepMetrics(
            nats=-chosen.sum().item(),
            words=len(rollout.targets),
            captions=len(rewards),
            reward=float(rewards.sum()),
            distinct=rollout.distinct,
        )
        return -(words * chosen).sum(), metrics

    def _uniforms(self, turns: Sequence[int], places: Sequence[int], greedy: bool) -> np.ndarray:
        """Draw random numbers in [0, 1) per image, sample and word, float32 [B,K,L], seeded by seed, turn and image."""
        size = (self._recipe.samples + greedy, DECODING.max_length + 1)  # +1 for the end token
        keys = ((self._seed, SAMPLES, *key) for key in zip(turns, places, strict=True))
        generators = map(np.random.default_rng, keys)
        return np.stack([generator.random(size, np.float32) for generator in generators])

    def _score(self, places: Sequence[int], sampled: list[list[list[int]]]) -> tuple[np.ndarray, np.ndarray]:
        captions = [caption for captions in sampled for caption in captions]
        rewards = self._reward(np.repeat(places, len(sampled[0])).tolist(), captions)
        table = rewards.reshape(len(sampled), -1)  # [B*K] -> [B,K]
        better = advantages(table, self._recipe.baseline)  # [B,K']
        return table[:, -better.shape[1] :].flatten(), better.flatten()  # each [B,K'] -> [B*K']
