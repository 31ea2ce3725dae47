"""Starting from a model: its vocabulary grows, its encoder thaws stage by stage, and it never gets worse."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="the extra `train` is not installed")
pytest.importorskip("accelerate", reason="the extra `train` is not installed")

import torch

from captionkit.cli import main as cli
from captionkit.data.images import load_image
from captionkit.data.layouts import open_dataset
from captionkit.data.run_files import LAST
from captionkit.data.tokenizer import Tokenizer
from captionkit.inference.model_folder import open_model
from captionkit.inference.search import Begun, Decoding, search
from captionkit.models.captioning_model import CaptioningModel, ModelConfig
from captionkit.models.encoder import EncoderConfig
from captionkit.models.mobilenet import MobileNet
from captionkit.models.resize_vocab import resize_token_embeddings
from captionkit.models.serialization import load_model
from captionkit.models.torch_stepper import TorchStepper
from captionkit.training.config.recipe import FINE_TUNE, load_recipe
from captionkit.training.config.schema import OptimizerRecipe
from captionkit.training.data.sampler import EpochSampler
from captionkit.training.optim.gradual_unfreezing import GradualUnfreezing
from captionkit.training.optim.optimizers import make_optimizer
from captionkit.training.optim.schedule import rates, set_rates
from captionkit.training.train_step import TrainStep
from captionkit.training.trainer import train
from decoders import CAPTIONS, CONFIGS, pack
from kept import rows, same_tensors
from shapes import make_recipe, make_shapes

OLD = ["a red circle", "a red circle", "there is a green bar", "there is a bar on paper"]


pytestmark = pytest.mark.usefixtures("alone")


# --- the vocabulary ---


def test_a_grown_vocabulary_keeps_its_ids_and_its_rules() -> None:
    old = Tokenizer.train(OLD, min_frequency=1)
    grown = old.extended(["A GOLD bar's gold", "the gold boat, the café's <eos> bar", "boat café eos"], 2)
    assert grown.tokens[: len(old)] == old.tokens
    assert grown.tokens[len(old) :] == ("gold", "'s", "boat", "café", "eos", "the")  # the commonest first
    said = "The gold boat's café is red; what <unk> <eos>!"
    ids = grown.encode(said)
    assert grown.decode(ids) == "the gold boat's café is red <unk> <unk> eos"
    assert [ids[0], ids[-1]] == [old.bos_id, old.eos_id] and ids.count(old.unk_id) == 2
    assert grown.never_generated == old.never_generated
    for caption in OLD:
        assert grown.encode(caption) == old.encode(caption)
    assert old.extended(["gold"], 2) is old and old.extended([], 1) is old


def test_a_grown_vocabulary_goes_round_through_its_file(tmp_path: Path) -> None:
    grown = Tokenizer.train(OLD, min_frequency=1).extended(["gold gold", "un été en été"], 2)
    (tmp_path / "tokenizer.json").write_text(grown.to_json(), encoding="utf-8")
    again = Tokenizer.load(tmp_path / "tokenizer.json")
    assert again.tokens == grown.tokens and again.encode("un été gold") == grown.encode("un été gold")
    assert again.extended(["gold été un un"], 1).tokens == (*grown.tokens, "un")


def test_byte_pairs_spell_every_word_already() -> None:
    text = Tokenizer.train(OLD, kind="bpe", min_frequency=1, vocab_size=300)
    assert text.extended(["gold gold gold"], 1) is text


NEW_SHARES = [0.2, 0.01, 0.003]


def model_of(name: str) -> CaptioningModel:
    torch.manual_seed(0)
    model = CaptioningModel(ModelConfig(EncoderConfig("mobilenet-v2"), CONFIGS[name], memory=8), 13).eval()
    for parameter in model.decoder.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return model


@pytest.mark.parametrize("name", CONFIGS)
def test_growth_keeps_every_old_logit(name: str) -> None:
    model = model_of(name)
    memory = model.project(torch.randn(3, 6, 1280), (2, 3))
    packed = pack(CAPTIONS)
    before, weights = model.decode(memory, packed).logits, {n: t.clone() for n, t in model.state_dict().items()}
    resize_token_embeddings(model, [[1, 4, 5, 2], [1, 6, 2]], NEW_SHARES, seed=3)
    after = model.decode(memory, packed).logits
    assert after.shape == (len(packed.tokens), 16)
    torch.testing.assert_close(after[:, :13], before, rtol=0, atol=1e-5)
    for key, tensor in model.state_dict().items():
        kept = weights[key]
        assert torch.equal(tensor[: len(kept)] if kept.ndim else tensor, kept), key
        assert tensor.shape == kept.shape or tensor.shape == (16, *kept.shape[1:]), key
    grown = {key for key, tensor in model.state_dict().items() if tensor.shape != weights[key].shape}
    assert grown == {
        "decoder.embedding.weight",
        *(["decoder.bias"] if name == "transformer" else ["decoder.output.weight", "decoder.output.bias"]),
    }
    assert model.decoder.dropout.p == model.config.decoder.dropout and not model.training


@pytest.mark.parametrize("name", CONFIGS)
def test_new_words_start_about_as_common_as_they_are_and_differ(name: str) -> None:
    model = model_of(name)
    known = [[1, 4, 5, 2], [1, 6, 9, 3, 2]]
    memory = model.project(torch.zeros(2, 1, 1280), (1, 1))
    resize_token_embeddings(model, known, NEW_SHARES, seed=3)
    packed = pack([(1, known[1][:-1]), (0, known[0][:-1])])
    logits = model.decode(memory, packed).logits.double()
    # What they share with the old words alone, so that the new ones do not count among themselves.
    found = (logits[:, 13:] - logits[:, :13].logsumexp(-1, keepdim=True)).mean(0)
    torch.testing.assert_close(found, torch.tensor(NEW_SHARES).double().log(), rtol=0, atol=0.5)
    embedding = model.decoder.embedding.weight
    old = embedding[:13]
    assert (embedding[13:] - old.mean(0)).abs().max() < old.std()
    assert torch.cdist(embedding[13:], embedding[13:])[0, 1] > 0
    again = model_of(name)
    resize_token_embeddings(again, known, NEW_SHARES, seed=3)
    assert all(torch.equal(t, again.state_dict()[key]) for key, t in model.state_dict().items())


# --- a run that starts from a model ---

#: what a run on twelve images does in a second or two, whatever the recipe to start from a model says
BRIEF = {
    "trainer.epochs": 2,
    "trainer.min_steps_per_epoch": 1,
    "trainer.batch_size": 4,
    "optimizer.warmup": 0,
    "trainer.ema_decay": 0.5,
    "trainer.log_samples": 1,
}


@pytest.fixture(scope="module")
def red(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of red shapes alone, the first three of those of `data`."""
    return make_shapes(tmp_path_factory.mktemp("red") / "data", train=3, val=0)


@pytest.fixture(scope="module")
def knows_red(red: Path, backbone: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that has learnt to tell the red shapes, and has no other colour's name."""
    run = tmp_path_factory.mktemp("first") / "run"
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("CAPTIONKIT_CACHE", str(run.parent / "cache"))
        patched.setitem(sys.modules, "onnx", None)
        train(
            red, run, make_recipe(backbone, {"data.val_split": "all", "trainer.epochs": 60, "trainer.eval_every": 60})
        )
    return run / "best"


def recipe_from(model: Path, changes: dict | None = None):
    values = {"trainer.init": model, **BRIEF, **(changes or {})}
    return load_recipe(None, {name: str(value) for name, value in values.items()})


@pytest.mark.slow
def test_new_words_are_learnt_and_told(data: Path, knows_red: Path, tmp_path: Path) -> None:
    old = open_model(knows_red).tokenizer
    assert "green" not in old.tokens and "red" in old.tokens
    changes = {"trainer.epochs": 60, "optimizer.lr_decoder": 1e-2, "decoder.dropout": 0, "trainer.eval_every": 20,
               "encoder.train": "all", "optimizer.lr_encoder": 1e-3, "data.val_split": "train", "image.flip": "false",
               "decoder.feature_dropout": 0, "loss.label_smoothing": 0}  # fmt: skip
    train(data, tmp_path / "run", recipe_from(knows_red, changes))
    folder = open_model(tmp_path / "run/best")
    assert folder.tokenizer.tokens[: len(old)] == old.tokens
    assert max(row["cider"] for row in rows(tmp_path / "run", "eval")) > 3
    told = tell(tmp_path / "run/best", data)
    assert {"red", "green", "blue", "gold"} <= {word for caption in told for word in caption.split()}
    assert not any("<unk>" in caption for caption in told)


def tell(folder: Path, data: Path) -> list[str]:
    """What a kept model says of the training images."""
    opened = open_model(folder)
    model, text = load_model(opened), opened.tokenizer
    pictures = np.stack([load_image(example.image, opened.preprocessing) for example in open_dataset(data)["train"]])
    stepper = TorchStepper(model)
    found = search(stepper, Begun(stepper.begin(pictures), pictures), Decoding(num_beams=3), text.special)
    return [text.decode(captions[0].tokens) for captions in found]


@pytest.mark.slow
def test_the_start_is_evaluated_and_kept_where_nothing_gets_better(
    data: Path, knows_red: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    wrecked = {
        "optimizer.lr_decoder": 10,
        "trainer.max_grad_norm": 1000,
        "trainer.patience": 0,
        "data.val_split": "train",
    }
    recipe = recipe_from(knows_red, wrecked)
    result = train(data, run, recipe)
    evaluated = rows(run, "eval")
    assert [row["step"] for row in evaluated] == [0, 3, 6] and evaluated[0]["best"]
    assert result.best_step == 0 and result.best_cider == evaluated[0]["cider"]
    assert json.loads((run / "best/config.json").read_text())["provenance"]["step"] == 0
    start, kept = load_model(open_model(knows_red)), load_model(open_model(run / "best"))
    for name, tensor in start.state_dict().items():
        assert torch.equal(tensor, kept.state_dict()[name][: len(tensor)] if tensor.ndim else kept.state_dict()[name])
    said = capsys.readouterr().err
    assert (
        f"new to {knows_red}, added to its own: 3 (blue, gold, green)" in said
        and "step      0  as it began  val" in said
    )


@pytest.mark.slow
def test_a_run_that_dies_before_its_first_checkpoint_evaluates_the_start_once(
    data: Path, knows_red: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dies(*_: object) -> None:
        raise OSError("killed")

    with monkeypatch.context() as patched:
        patched.setattr(TrainStep, "step", dies)
        with pytest.raises(OSError, match="killed"):
            train(data, tmp_path / "run", recipe_from(knows_red))
    assert [row["step"] for row in rows(tmp_path / "run", "eval")] == [0]
    train(data, tmp_path / "run", resume=True)
    train(data, tmp_path / "alone", recipe_from(knows_red))
    assert rows(tmp_path / "run", "eval") == rows(tmp_path / "alone", "eval")
    assert [row["step"] for row in rows(tmp_path / "run", "eval")] == [0, 3, 6]


@pytest.mark.slow
def test_the_command_line_takes_the_recipe_by_itself_and_says_so(
    red: Path, knows_red: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    flags = ["--trainer.epochs", "1", "--trainer.min-steps-per-epoch", "2"]
    assert cli.main(["train", str(red), "--init", str(knows_red), "--output", str(run), *flags]) == 0
    said = capsys.readouterr().err
    assert said.startswith(f"recipe {FINE_TUNE}, as with --init none is named")
    stored = load_recipe(str(run / "recipe.toml"))
    assert stored.decoder == load_recipe(FINE_TUNE).decoder and stored.trainer.min_steps_per_epoch == 2
    assert "2 steps an epoch of 2 passes" in said
    capsys.readouterr()
    mine = tmp_path / "mine.toml"
    mine.write_text("[optimizer]\nepochs = 1\n")
    named = ["--recipe", str(mine), "--init", str(knows_red), "--output", str(tmp_path / "other")]
    assert cli.main(["train", str(red), *named]) == 0
    assert FINE_TUNE not in capsys.readouterr().err
    assert load_recipe(str(tmp_path / "other/recipe.toml")).decoder.dropout == 0.3


@pytest.mark.slow
def test_a_dozen_captions_of_another_language_are_enough(
    data: Path, knows_red: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One image and one caption each, every word new, most of them seen once."""
    root = tmp_path / "german"
    root.mkdir()
    names = sorted(path.name for path in data.glob("*.png"))[:12]
    lines = [f"{name},Ein {name[:-4].replace('-', ' ').upper()}bild Nummer {n}" for n, name in enumerate(names)]
    for name in names:
        (root / name).write_bytes((data / name).read_bytes())
    (root / "captions.csv").write_text("\n".join(["image,caption", *lines]), encoding="utf-8")
    train(root, tmp_path / "run", recipe_from(knows_red, {"trainer.min_steps_per_epoch": 3}))
    said = capsys.readouterr().err
    assert "11 training and 1 validation images" in said
    assert {"ein", "nummer"} <= set(open_model(tmp_path / "run/best").tokenizer.tokens)


def test_an_epoch_goes_over_few_pictures_as_often_as_its_steps_take() -> None:
    recipe = load_recipe(None, {"trainer.min_steps_per_epoch": "10", "trainer.batch_size": "4", "trainer.epochs": "3"})
    plan = EpochSampler(11, recipe)
    assert (plan.steps_per_pass, plan.passes, plan.steps_per_epoch, plan.steps) == (3, 4, 12, 36)
    passes = [plan.images_of(step) for step in range(36)]
    assert [set(turns.tolist()) for turns, _ in passes] == [{step // 3} for step in range(36)]
    orders = [[int(i) for _, some in passes[n : n + 3] for i in some] for n in range(0, 36, 3)]
    assert all(sorted(order) == list(range(11)) for order in orders)
    assert len({tuple(order) for order in orders}) == 12
    assert EpochSampler(41, recipe).passes == 1 and EpochSampler(41, recipe).steps_per_epoch == 11


def test_a_short_run_warms_up_for_a_fifth_of_it() -> None:
    layer = torch.nn.Linear(1, 1)
    optimizer = torch.optim.AdamW([{"params": layer.parameters(), "base_lr": 1.0, "name": "decoder"}])
    found = []
    for step in range(10):
        set_rates(optimizer, step, 10, OptimizerRecipe(warmup=200))
        found.append(optimizer.param_groups[0]["lr"])
    assert found[:3] == [0.5, 1.0, 1.0] and found[3] < 1
    set_rates(optimizer, 0, 1000, OptimizerRecipe(warmup=200))
    assert optimizer.param_groups[0]["lr"] == 1 / 200


# --- gradual unfreezing ---

#: the last stage of the tiny backbone's three thaws at step 2, the next at step 4, the first never
THAWING = {"encoder.train": "stages", "encoder.first_stage": 1,
           "encoder.unfreeze_epochs": 0.5, "encoder.layer_decay": 0.5,
           "trainer.epochs": 3, "trainer.batch_size": 3, "trainer.ema_decay": 0.5, "optimizer.warmup": 0}  # fmt: skip


@pytest.mark.parametrize("first", [0, 2])
def test_stages_thaw_at_their_steps(first: int) -> None:
    torch.manual_seed(0)
    encoder = MobileNet([torch.nn.Conv2d(3, 3, 1) for _ in range(4)], dim=3)
    encoder.train_from(first)
    unfreezing = GradualUnfreezing(encoder, 0.5, 6)
    stages = [unfreezing.first_stage(step) for step in range(18)]
    assert stages == [None] * 3 + [3] * 3 + [2] * 3 + [max(first, 1)] * 3 + [first] * 6
    for step in (0, 4, 7, 17, 1):  # a step decides, wherever one comes from
        unfreezing.apply(step)
        stage = 4 if stages[step] is None else stages[step]
        assert [all(p.requires_grad for p in part.parameters()) for part in encoder.stages] == [
            number >= stage for number in range(4)
        ]
    assert "every 3 steps, from the last on: 2 of its 4" in unfreezing.describe(9)
    assert GradualUnfreezing(encoder, 0, 6).describe(9) == ""
    encoder.train_from(None)
    assert (
        GradualUnfreezing(encoder, 1, 6).first_stage(100) is None
        and GradualUnfreezing(encoder, 1, 6).describe(100) == ""
    )


def test_only_thawed_stages_move_and_at_rates_of_their_own(
    data: Path, backbone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = make_recipe(backbone, THAWING)
    seen: list[tuple] = []
    original = TrainStep.step

    def watched(self, number, batches):
        stages = self.model.encoder.stages
        before = [[p.detach().clone() for p in stage.parameters()] for stage in stages]
        averages = [[p.clone() for p in stage.parameters()] for stage in self.average.module.encoder.stages]
        norms = [b.clone() for b in stages[0].buffers()]
        answer = original(self, number, batches)
        now = [list(stage.parameters()) for stage in stages]
        average = [list(stage.parameters()) for stage in self.average.module.encoder.stages]
        moved = [not all(map(torch.equal, a, b)) for a, b in zip(before, now, strict=True)]
        followed = [not all(map(torch.equal, a, b)) for a, b in zip(averages, average, strict=True)]
        assert moved[0] is followed[0] is False and all(map(torch.equal, norms, stages[0].buffers()))
        asleep = [parameter for group in self.optimizer.param_groups for parameter in group["params"]
                  if not parameter.requires_grad]  # fmt: skip
        assert not any(self.optimizer.state.get(parameter) for parameter in asleep if number < 2)
        lrs = {g["base_lr"] for g in self.optimizer.param_groups if g["name"] == "encoder"}
        seen.append((number, moved, [stage.training for stage in stages], lrs, rates(self.optimizer)))
        return answer

    monkeypatch.setattr(TrainStep, "step", watched)
    train(data, tmp_path / "run", recipe)
    assert [moved for _, moved, *_ in seen] == [[False] * 3] * 2 + [[False, False, True]] * 2 + [
        [False, True, True]
    ] * 8
    assert seen[0][3] == {recipe.optimizer.lr_encoder, recipe.optimizer.lr_encoder / 2}
    assert [("lr_encoder" in found) for *_, found in seen] == [False] * 2 + [True] * 10
    assert all(found["lr_encoder"] == pytest.approx(found["lr_decoder"] / 3) for *_, found in seen[2:])


def test_what_belongs_to_no_stage_has_the_first_ones_rate() -> None:
    encoder = MobileNet([torch.nn.Linear(2, 2) for _ in range(3)], dim=2)
    encoder.loose = torch.nn.Parameter(torch.zeros(2, 2))
    model = torch.nn.Module()
    model.encoder, model.decoder = encoder, torch.nn.Linear(2, 2)
    groups = make_optimizer(model, OptimizerRecipe(lr_encoder=1.0, lr_decoder=3.0), 0.5).param_groups
    rate_of = {id(p): (group["name"], group["base_lr"]) for group in groups for p in group["params"]}
    assert rate_of[id(encoder.loose)] == ("encoder", 0.25)
    assert [rate_of[id(stage.weight)] for stage in encoder.stages] == [("encoder", x) for x in (0.25, 0.5, 1.0)]
    assert rate_of[id(model.decoder.weight)] == ("decoder", 3.0)


@pytest.mark.slow
@pytest.mark.parametrize("stop", [1, 2, 5])
def test_a_run_resumed_while_thawing_changes_no_bit(
    data: Path, backbone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: int
) -> None:
    recipe = make_recipe(backbone, {**THAWING, "trainer.checkpoint_every": 0, "trainer.gradient_accumulation_steps": 2})
    original = TrainStep.step

    def stopped(self, number, batches):
        if number == stop:
            raise KeyboardInterrupt
        return original(self, number, batches)

    with monkeypatch.context() as patched:
        patched.setattr(TrainStep, "step", stopped)
        with pytest.raises(KeyboardInterrupt):
            train(data, tmp_path / "run", recipe)
    train(data, tmp_path / "run", resume=True)
    train(data, tmp_path / "alone", recipe)
    assert same_tensors(tmp_path / "run" / LAST, tmp_path / "alone" / LAST)
    assert rows(tmp_path / "run", "eval") == rows(tmp_path / "alone", "eval")
