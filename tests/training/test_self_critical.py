"""Self-critical training: what a caption is worth, what is drawn, which way it pulls, and when it is stopped."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("torch", reason="the extra `train` is not installed")
pytest.importorskip("accelerate", reason="the extra `train` is not installed")

import torch
from torch import Tensor

from captionkit.data.run_files import LAST
from captionkit.data.tokenizer import Tokenizer
from captionkit.errors import RecipeError
from captionkit.inference.model_folder import open_model
from captionkit.inference.search import Begun, Decoding, search
from captionkit.metrics.bleu import Bleu
from captionkit.metrics.cider import CiderD
from captionkit.metrics.document_frequencies import DocumentFrequencies
from captionkit.models.captioning_model import CaptioningModel, ModelConfig
from captionkit.models.encoder import Encoder, EncoderConfig
from captionkit.models.serialization import load_model
from captionkit.models.torch_stepper import TorchStepper
from captionkit.training import trainer
from captionkit.training.config.recipe import load_recipe
from captionkit.training.objectives import scst
from captionkit.training.objectives.collapse import detect_collapse
from captionkit.training.objectives.rewards import CiderReward, advantages
from captionkit.training.objectives.sampling import draw, sample_captions
from captionkit.training.objectives.scst import SelfCriticalLoss
from captionkit.training.trainer import train
from captionkit.training.validation import Validator
from decoders import CONFIGS
from kept import rows
from shapes import make_recipe

REFERENCES = [
    ["a dog runs on the grass", "the brown dog runs"],
    ["a man on a red boat", "a red boat by the sea", "two men sail"],
]


pytestmark = pytest.mark.usefixtures("alone")


@pytest.fixture(scope="module")
def text() -> Tokenizer:
    return Tokenizer.train([caption for some in REFERENCES for caption in some], min_frequency=1)


# --- what a caption is worth ---


@pytest.mark.parametrize("kind", ["word", "bpe"])
def test_the_reward_is_cider_d_with_the_end_as_a_token(kind: str) -> None:
    flat = [caption for some in REFERENCES for caption in some]
    text = Tokenizer.train(flat, kind=kind, min_frequency=1, vocab_size=300)
    written = [[[*caption.split(), "<eos>"] for caption in some] for some in REFERENCES]
    said = ["a dog on the grass", "a red boat by the sea", "the brown dog runs"]
    ids = [text.encode(caption)[1:] for caption in said]
    ids[2] = ids[2][:-1]  # cut, so it does not end
    candidates = [[*said[0].split(), "<eos>"], [*said[1].split(), "<eos>"], said[2].split()]
    places = [0, 1, 0]
    metric = CiderD(DocumentFrequencies.of(written))
    metric.update(candidates, [written[place] for place in places])
    wanted = metric.compute().per_image[:, 0]
    assert CiderReward(REFERENCES, text, 0.0)(places, ids) == pytest.approx(wanted)
    assert wanted[2] < CiderReward(REFERENCES, text, 0.0)([0], [text.encode(said[2])[1:]])[0]
    bleu = Bleu()
    bleu.update(candidates, [written[place] for place in places])
    mixed = wanted + 0.5 * bleu.compute().per_image[:, 3]
    assert CiderReward(REFERENCES, text, 0.5)(places, ids) == pytest.approx(mixed)


def test_a_caption_that_breaks_off_earns_less_than_one_that_ends_well(text: Tokenizer) -> None:
    whole, broken = (text.encode(caption)[1:] for caption in ("a dog runs on the grass", "a dog runs on the"))
    ended, ended_early, cut = CiderReward(REFERENCES, text, 0.0)([0, 0, 0], [whole, broken, broken[:-1]])
    assert ended > ended_early and ended > cut


def test_nothing_said_is_worth_nothing_more_than_its_end(text: Tokenizer) -> None:
    assert CiderReward(REFERENCES, text, 1.0)([0, 1], [[text.eos_id], []]).tolist()[1] == pytest.approx(0, abs=1e-6)


def test_advantages_by_hand() -> None:
    rewards = np.array([[1.0, 2.0, 6.0], [3.0, 3.0, 3.0]])
    assert advantages(rewards, "others").tolist() == [[-3.0, -1.5, 4.5], [0, 0, 0]]
    assert advantages(rewards, "greedy").tolist() == [[1.0, 5.0], [0, 0]]


# --- what is drawn ---


def test_a_number_draws_the_token_whose_share_it_falls_in() -> None:
    probabilities = torch.tensor([[[0.25, 0.0, 0.5, 0.25, 0.0]], [[0.0, 1.0, 0.0, 0.0, 0.0]]])
    numbers = torch.tensor([[0.0, 0.2499, 0.25, 0.7499, 0.75, 1 - 2**-24], [0.0, 0.1, 0.3, 0.5, 0.9, 1 - 2**-24]])
    assert draw(probabilities, numbers).tolist() == [[0, 0, 2, 2, 3, 3], [1] * 6]
    each = torch.tensor([[[0.5, 0.5], [0.1, 0.9]]])  # two hypotheses, a number for each
    assert draw(each, torch.tensor([[0.4, 0.4]])).tolist() == [[0, 1]]


def test_a_share_that_rounds_up_draws_no_impossible_token() -> None:
    weights = torch.rand(40, 1, 500, generator=torch.Generator().manual_seed(0))
    weights[..., 300:] = 0
    top = torch.full((40, 1), 1 - 2**-24)
    assert draw(weights / weights.sum(-1, keepdim=True), top).max() < 300


class Still(Encoder):
    """Gives back what it is given, so that tests decide the memory."""

    dim = 8

    @property
    def stages(self) -> list:
        return [torch.nn.Identity()]

    def grid(self, height: int, width: int) -> tuple[int, int]:
        return 2, 3

    def preprocessing(self):
        raise NotImplementedError

    def forward(self, images: Tensor) -> Tensor:
        return images


def speaker(kind: str, vocabulary: int, scale: float = 0.7) -> CaptioningModel:
    torch.manual_seed(0)
    config = ModelConfig(EncoderConfig("still"), CONFIGS[kind], memory=0)
    model = CaptioningModel(config, vocabulary, encoder=Still()).eval()
    for parameter in model.decoder.parameters():
        torch.nn.init.normal_(parameter, std=scale)
    return model


@pytest.mark.parametrize("kind", CONFIGS)
def test_what_is_said_of_a_picture_does_not_depend_on_the_others(kind: str, text: Tokenizer) -> None:
    model, generator = speaker(kind, len(text), 0.3), np.random.default_rng(0)
    memory = torch.randn(5, 6, 8, generator=torch.Generator().manual_seed(1))
    uniforms = generator.random((5, 2, 12), np.float32)
    together = sample_captions(model, memory, uniforms, text, 1.0, greedy=False)
    alone = [
        sample_captions(model, memory[n : n + 1], uniforms[n : n + 1], text, 1.0, greedy=False)[0] for n in range(5)
    ]
    assert together == alone
    flat = [caption for captions in together for caption in captions]
    longest = {max(len(caption) for caption in captions) for captions in together}
    assert len(longest) > 1  # so that some images were done before others
    for caption in flat:
        assert not set(caption) & text.never_generated
        assert text.eos_id not in caption[:-1]
        assert len(caption) == 12 or caption[-1] == text.eos_id


@pytest.mark.parametrize("kind", CONFIGS)
def test_the_likeliest_caption_is_that_of_greedy_search(kind: str, text: Tokenizer) -> None:
    model = speaker(kind, len(text))
    memory = torch.randn(5, 6, 8, generator=torch.Generator().manual_seed(2))
    said = sample_captions(model, memory, np.full((5, 2, 12), 0.5, np.float32), text, 0.7, greedy=True)
    greedy = Decoding(num_beams=1, max_length=11, min_length=0, no_repeat_ngram_size=0)
    found = search(TorchStepper(model), Begun(model.begin(memory), memory), greedy, text.special)
    for captions, (best, *_) in zip(said, found, strict=True):
        words = [token for token in captions[0] if token != text.eos_id]
        assert words[:11] == [token for token in best.tokens if token != text.eos_id]


# --- which way it pulls ---


class Pictures:
    """As much of a dataset as the self-critical loss needs."""

    def __init__(self, written: list[list[str]]) -> None:
        self.examples = [SimpleNamespace(captions=captions) for captions in written]


@pytest.mark.parametrize(("kind", "baseline"), [("soft", "others"), ("transformer", "others"), ("show-tell", "greedy")])
def test_the_gradient_is_that_of_the_expected_reward(kind: str, baseline: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against the sum over all captions of at most three tokens, each with its probability."""
    text = Tokenizer.train(["a dog", "a cat"], min_frequency=1)
    monkeypatch.setattr(scst, "DECODING", Decoding(max_length=2))
    model, memory = speaker(kind, len(text), 0.4), torch.randn(1, 6, 8, generator=torch.Generator().manual_seed(3))
    words = sorted(set(range(len(text))) - text.never_generated)
    written = [["a dog", "the dog"], ["a cat"]]
    reward = CiderReward(written, text, 0.0)
    every = [
        list(tokens[: tokens.index(text.eos_id) + 1] if text.eos_id in tokens else tokens)
        for tokens in itertools.product(words, repeat=3)
    ]
    every = [list(caption) for caption in dict.fromkeys(map(tuple, every))]
    worth = torch.tensor(reward([0] * len(every), every))
    expected = -sum(worth[n] * _probability(model, memory, caption, text) for n, caption in enumerate(every))
    wanted = torch.autograd.grad(expected, list(model.decoder.parameters()), allow_unused=True)

    values = {"self_critical.samples": "3000", "self_critical.baseline": baseline}
    values |= {"self_critical.temperature": "0.8"}
    recipe = load_recipe(None, {"trainer.init": "some", "loss.objective": "self-critical", **values})
    critic = SelfCriticalLoss(Pictures(written), text, recipe)
    found = []
    for turn in range(3):
        said = critic.rollout(model, memory, (turn,), (0,))
        objective, learnt = critic.objective(model.decode(memory, said.captions), said)
        found.append(torch.autograd.grad(objective / 3000, list(model.decoder.parameters()), allow_unused=True))
        assert learnt.captions == 3000 and learnt.distinct <= len(every)
        assert learnt.reward / 3000 == pytest.approx(-expected.item(), abs=0.03 * float(worth.max()))
    ours = torch.cat([torch.stack(g).mean(0).flatten() for g in zip(*found, strict=True) if g[0] is not None])
    truth = torch.cat([gradient.flatten() for gradient in wanted if gradient is not None])
    assert torch.cosine_similarity(ours, truth, dim=0) > 0.99
    assert (ours - truth).norm() < 0.15 * truth.norm()


def _probability(model: CaptioningModel, memory: Tensor, caption: list[int], text: Tokenizer) -> Tensor:
    state, log_prob = model.begin(memory), torch.zeros(())
    before = text.bos_id
    for token in caption:
        logits, _, changed = model.step(torch.tensor([[before]]), torch.zeros(1, 1, dtype=torch.long), state)
        state, before = {**state, **changed}, token
        allowed = logits[0, 0].clone()
        allowed[sorted(text.never_generated)] = -torch.inf
        log_prob = log_prob + (allowed / 0.8).log_softmax(-1)[token]
    return log_prob.exp()


# --- whole runs ---


TAUGHT = {
    "trainer.epochs": 40,
    "trainer.patience": 0,
    "decoder.dropout": 0,
    "decoder.feature_dropout": 0,
    "trainer.ema_decay": 0.5,
}
CRITICAL = {
    "loss.objective": "self-critical",
    "decoder.dropout": 0,
    "decoder.feature_dropout": 0,
    "trainer.ema_decay": 0,
    "trainer.patience": 0,
}


@pytest.fixture(scope="module")
def pretrained(data: Path, backbone: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that knows its captions a little."""
    folder = tmp_path_factory.mktemp("pretrained")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CAPTIONKIT_CACHE", str(folder / "cache"))
        patch.setitem(sys.modules, "onnx", None)
        train(data, folder / "run", make_recipe(backbone, TAUGHT))
    return folder / "run" / "best"


@pytest.fixture
def critical(pretrained: Path, backbone: Path):
    """Makes a recipe of self-critical training from the model that knows its captions a little."""

    def recipe(changes: dict | None = None):
        return make_recipe(backbone, {**CRITICAL, "trainer.init": pretrained, **(changes or {})})

    return recipe


@pytest.mark.slow
def test_the_reward_rises_and_is_reported(
    data: Path, critical, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainer, "detect_collapse", lambda *_: "")  # three validation images are too few to tell
    result = train(data, tmp_path / "run", critical({"trainer.epochs": 40}))
    said = capsys.readouterr().err
    assert "reward" in said and "nan" not in said
    learnt, judged = rows(tmp_path / "run", "train"), rows(tmp_path / "run", "eval")
    assert np.mean([row["reward"] for row in learnt[-2:]]) > 1.3 * learnt[0]["reward"]
    for row in learnt:
        assert "loss" not in row and 0 < row["distinct"] <= 1 and row["words"] > 2 and row["entropy"] > 0
    assert judged[0]["step"] == 0 and judged[0]["best"]  # the model that it started from
    assert result.best_cider >= judged[0]["cider"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "baseline"),
    [
        ({"decoder.name": "show-tell"}, "others"),
        ({"decoder.kind": "hard", "trainer.epochs": 3}, "greedy"),
        ({"decoder.name": "transformer", "decoder.size": "tiny"}, "greedy"),
    ],
    ids=["show-tell", "hard", "transformer"],
)
def test_any_model_learns_so(
    data: Path, backbone: Path, critical, tmp_path: Path, changes: dict, baseline: str
) -> None:
    sizes = {f"decoder.{name}": "512" for name in ("embedding", "hidden")} | {"decoder.attention": "256"}
    foreign = sizes if changes.get("decoder.name") == "transformer" else {}
    if changes.get("decoder.name") == "show-tell":
        foreign = {"decoder.attention": "256"}
    train(data, tmp_path / "first", make_recipe(backbone, {"trainer.epochs": 2, **foreign, **changes}))
    init = tmp_path / "first/best"
    train(
        data,
        tmp_path / "run",
        critical({"trainer.init": init, "trainer.epochs": 1, "self_critical.baseline": baseline}),
    )
    before, after = (load_model(open_model(path)).decoder for path in (init, tmp_path / "run/best"))
    assert before.state_dict().keys() == after.state_dict().keys()
    assert (tmp_path / "run" / LAST).exists()


def test_it_needs_a_model_to_start_from(data: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"loss.objective = 'self-critical': needs a model .*--init"):
        train(data, tmp_path / "run", load_recipe("self-critical"))
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_what_means_nothing_to_it_is_refused(data: Path, critical, tmp_path: Path) -> None:
    for name, value in (("data.token_dropout", 0.1), ("loss.scheduled_sampling", 0.1)):
        with pytest.raises(RecipeError, match=f"{name} = 0.1: is for learning people's captions; leave it out"):
            train(data, tmp_path / "run", critical({name: value}))


@pytest.mark.slow
def test_parts_and_cropped_pictures_change_nothing_but_the_sum(data: Path, critical, tmp_path: Path) -> None:
    common = {"trainer.epochs": 1, "image.random_resized_crop_scale": 0.8}
    for name, parts in (("whole", 1), ("parts", 4)):
        train(data, tmp_path / name, critical({**common, "trainer.gradient_accumulation_steps": parts}))
    one, other = (rows(tmp_path / name, "eval") for name in ("whole", "parts"))
    assert [row["val_loss"] for row in one] == pytest.approx([row["val_loss"] for row in other], rel=1e-4)


# --- when it is stopped ---

START = {"cider": 0.5, "cider_error": 0.003, "words": 10.0, "repeats": 0.1, "breaks": 0.0}


@pytest.mark.parametrize(
    ("now", "why"),
    [
        ({"cider": 0.46}, "validation CIDEr-D fell from 0.500 to 0.460"),
        ({"words": 13.0}, "captions lengthen: 13.0 words, where 10.0 are usual"),
        ({"repeats": 0.4}, "captions repeat themselves: 40% say words twice, 10% at the start"),
        ({"breaks": 0.05}, "captions break off: 5% end as none should, 0% at the start"),
        ({"cider": 0.3, "cider_error": 0.11}, ""),
        ({"words": 12.4}, ""),
        ({"cider": 0.48, "words": 12.0, "repeats": 0.25, "breaks": 0.02}, ""),
    ],
)
def test_harm_is_named(now: dict, why: str) -> None:
    assert detect_collapse(START, START | now, 8.0) == why


def test_signs_of_harm_are_counted() -> None:
    from captionkit.data.layouts import CaptionSet
    from captionkit.data.layouts.caption_set import Example

    captions = tuple(f"the dog sees a {thing}" for thing in ("ball", "cat", "man", "boat", "tree"))
    validator = Validator(CaptionSet("some", "val", tuple(Example(n, b"", captions) for n in range(5))))
    said = {0: "the dog sees a", 1: "the ball the ball", 2: "a cat", 3: ""}
    found = validator.scores(said)
    assert found["repeats"] == 0.25 and found["breaks"] == 0.5


@pytest.mark.slow
def test_a_harmed_run_stops_says_why_and_keeps_what_was_better(
    data: Path, critical, pretrained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    original, calls = Validator.scores, []

    def worse(self, said):
        calls.append(1)
        return original(self, said) | ({"words": 99.0, "cider": 9.0} if len(calls) > 2 else {"cider": 0.5})

    monkeypatch.setattr(Validator, "scores", worse)
    recipe = critical({"trainer.epochs": 9})
    result = train(data, tmp_path / "run", recipe)
    assert "captions lengthen: 99.0 words" in capsys.readouterr().err
    assert result.steps == 6 and result.best_step < 6 and result.best_cider < 9
    again = train(data, tmp_path / "run", resume=True)
    assert again == result  # what was stopped for harm does not go on
    assert "captions lengthen" in capsys.readouterr().err
