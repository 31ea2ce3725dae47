"""Recipes: files, flags and defaults set one tree of checked values."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import get_args, get_type_hints

import pytest

pytest.importorskip("pydantic", reason="the extra `train` is not installed")

from captionkit.cli import main as cli
from captionkit.errors import RecipeError
from captionkit.training.config.recipe import Recipe, flag_of, load_recipe, recipe_fields, shipped_recipes
from captionkit.training.config.schema import DecoderRecipe


@pytest.fixture
def toml(tmp_path: Path):
    def write(content: str) -> str:
        path = tmp_path / "mine.toml"
        path.write_text(content, encoding="utf-8")
        return str(path)

    return write


def test_flags_win_over_the_file_and_the_file_over_defaults(toml) -> None:
    path = toml("[optimizer]\nlr_decoder = 5e-4\nepochs = 7\n[image]\nflip_unless = ['links', 'rechts']\n")
    recipe = load_recipe(path, {"trainer.epochs": "9", "image.flip": "true"})
    assert (recipe.optimizer.lr_decoder, recipe.trainer.epochs) == (5e-4, 9)
    assert (recipe.image.flip, recipe.image.flip_unless) == (True, ("links", "rechts"))
    assert recipe.trainer.batch_size == Recipe().trainer.batch_size
    assert load_recipe(None) == Recipe()


def test_a_listed_flag_is_split_and_may_be_emptied() -> None:
    assert load_recipe(None, {"image.flip_unless": "links,rechts"}).image.flip_unless == ("links", "rechts")
    assert load_recipe(None, {"image.flip_unless": ""}).image.flip_unless == ()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[optimizer]\nlr_decodr = 1", "optimizer.lr_decodr is not a field.*did you mean 'optimizer.lr_decoder'"),
        ("[decoder]\nlr_encoder = 1", "decoder.lr_encoder is not a field.*did you mean 'optimizer.lr_encoder'"),
        ("lr_decoder = 1", "lr_decoder is not a field.*did you mean 'optimizer.lr_decoder'"),
        ("[optimiser]\nepochs = 1", "optimiser is not a field.*did you mean 'optimizer'"),
        ("[optimizer]\nepochs = 0", "trainer.epochs = 0: .*greater than or equal to 1"),
        ("[optimizer]\nepochs = 2.5", "trainer.epochs = 2.5: .*integer"),
        ("[optimizer]\nlr_decoder = '1e-3'", "optimizer.lr_decoder = '1e-3': .*number"),
        ("[optimizer]\nlr_decoder = true", "optimizer.lr_decoder = True: .*number"),
        ("[optimizer]\nlr_decoder = nan", "optimizer.lr_decoder = nan: .*finite"),
        ("[optimizer]\nema = 1.0", "trainer.ema_decay = 1.0: .*less than 1"),
        ("[image]\nflip = 1", "image.flip = 1: .*boolean"),
        ("[encoder]\ntrain = 'al'", "encoder.train = 'al': .*'frozen', 'stages' or 'all'"),
        ("data = 5", "data = 5: .*object"),
        ("[data", "not TOML"),
    ],
)
def test_mistakes_in_a_file_name_the_field(toml, content: str, message: str) -> None:
    path = toml(content)
    with pytest.raises(RecipeError, match=message) as caught:
        load_recipe(path)
    assert str(caught.value).startswith(path)
    assert "\n" not in str(caught.value)


def test_all_mistakes_are_named_at_once(toml) -> None:
    with pytest.raises(RecipeError, match=r"epochs.*batch_size"):
        load_recipe(toml("[optimizer]\nepochs = 0\nbatch_size = 0"))


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("optimizer.lr_decoder", "fast", "optimizer.lr_decoder = 'fast': .*number"),
        ("optimizer.lr_decoder", "inf", "optimizer.lr_decoder = 'inf': .*finite"),
        ("image.random_resized_crop_scale", "0", "image.random_resized_crop_scale = '0': .*greater than 0"),
        ("data.weights", "1,0", "data.weights.1 = '0': .*greater than 0"),
        ("data.weights", "1,-2", "data.weights.1 = '-2': .*greater than 0"),
        ("data.weights", "1,twice", "data.weights.1 = 'twice': .*number"),
        ("data.weights", "1,nan", "data.weights.1 = 'nan': "),
        ("data.token_dropout", "1", "data.token_dropout = '1': .*less than 1"),
        ("image.color_jitter", "-0.1", "image.color_jitter = '-0.1': .*greater than or equal to 0"),
        ("loss.scheduled_sampling", "1.1", "loss.scheduled_sampling = '1.1': .*less than or equal to 1"),
        ("trainer.epochs", "2.5", "trainer.epochs"),
    ],
)
def test_mistakes_on_the_command_line_name_the_field(name: str, value: str, message: str) -> None:
    with pytest.raises(RecipeError, match=f"command line: {message}"):
        load_recipe(None, {name: value})


def test_a_mistaken_flag_is_answered_with_the_nearest_one(capsys: pytest.CaptureFixture[str]) -> None:
    for given in (["--optimizer.lr-decodr", "1e-3"], ["--optimizer.lr_decoder=1e-3"]):
        with pytest.raises(SystemExit) as caught:
            cli.main(["train", "data", "--output", "run", *given])
        assert caught.value.code == 2
        said = capsys.readouterr().err
        assert said.startswith(f"captionkit: {given[0]}")
        assert "did you mean --optimizer.lr-decoder?" in said
        assert said.count("\n") == 1


def test_a_bad_value_on_the_command_line_is_one_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    output = tmp_path / "run"
    assert cli.main(["train", str(tmp_path), "--output", str(output), "--trainer.epochs", "none"]) == 1
    assert re.fullmatch(r"captionkit: command line: optimizer\.epochs = 'none': .*integer.*\n", capsys.readouterr().err)
    assert not output.exists()


def test_resume_takes_no_recipe(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert cli.main(["train", str(tmp_path), "--output", "run", "--resume", "--trainer.epochs", "3"]) == 1
    assert "recipe stored in the run" in capsys.readouterr().err


def test_every_field_is_a_flag_with_help() -> None:
    known = {
        action.dest: action.option_strings
        for group in cli._parser(["train"])._subparsers._group_actions
        for action in group.choices["train"]._actions
    }
    for name, leaf in recipe_fields():
        assert known[f"recipe:{name}"] == [flag_of(name)]
        assert leaf.metadata["help"]


def _changed(leaf: dataclasses.Field) -> str:
    """Another value than the default, as one would type it."""
    choices = {
        "tokenizer": "bpe",
        "fit": "crop",
        "train": "stages",
        "precision": "bf16",
        "keep": "loss",
        "flip_unless": "links,rechts",
    }
    choices |= {"kind": "hard", "size": "tiny", "weights": "2.0,0.5", "schedule": "linear"}
    choices |= {"objective": "self-critical", "baseline": "greedy"}
    if leaf.name in choices:
        return choices[leaf.name]
    if leaf.default == "adamw":  # other tables have a `name` too, of any value
        return "sgd"
    if isinstance(leaf.default, bool):
        return str(not leaf.default).lower()
    if isinstance(leaf.default, int):
        return str(leaf.default + 1)
    return str(leaf.default / 3 or 0.25) if isinstance(leaf.default, float) else f"{leaf.default} other"


def test_every_field_goes_round_through_toml_and_through_flags(toml) -> None:
    # With a model to start from, whose decoder is not known yet, fields of all decoders may be set together.
    values = {name: _changed(leaf) for name, leaf in recipe_fields()} | {"decoder.name": "transformer"}
    recipe = load_recipe(None, values)
    assert recipe.trainer.init
    assert all(recipe.value(name) != leaf.default for name, leaf in recipe_fields())
    assert load_recipe(toml(recipe.to_toml())) == recipe
    parsed = cli._parser(["train"]).parse_args(["train", "data", "--output", "run", *recipe.to_flags()])
    flags = {name.removeprefix("recipe:"): value for name, value in vars(parsed).items() if name.startswith("recipe:")}
    assert load_recipe(None, {name: value for name, value in flags.items() if value is not None}) == recipe
    assert Recipe().to_flags() == []


TRANSFORMERS = {"decoder.size", "decoder.width", "decoder.layers", "decoder.heads"}
HARD = {"loss.hard_reward", "loss.hard_entropy"}


@pytest.mark.parametrize(
    ("decoder", "kind", "foreign"),
    [
        (
            "show-tell",
            "soft",
            {"decoder.attention", "decoder.kind", "loss.doubly_stochastic_weight", *TRANSFORMERS, *HARD},
        ),
        ("show-attend-tell", "soft", {*TRANSFORMERS, *HARD}),
        ("show-attend-tell", "hard", TRANSFORMERS),
        ("transformer", "soft", {"decoder.embedding", "decoder.hidden", "decoder.attention", "decoder.kind", *HARD}),
    ],
)
def test_fields_of_other_decoders_are_refused(decoder: str, kind: str, foreign: set[str]) -> None:
    chosen = {"decoder.name": decoder, "decoder.kind": kind}
    for name, leaf in recipe_fields():
        value = {**chosen, name: _changed(leaf)}
        if name in foreign:
            with pytest.raises(RecipeError, match=rf"^{name} = .*: the decoder is {decoder}.*, but .*; leave it out$"):
                load_recipe(None, value)
        elif name not in ("decoder.name", "decoder.kind", "trainer.init"):
            assert load_recipe(None, value).value(name) != leaf.default


def test_a_file_is_told_too_and_defaults_of_other_decoders_may_stand_in_it(toml) -> None:
    recipe = load_recipe(None, {"decoder.name": "show-tell"})
    assert load_recipe(toml(recipe.to_toml())) == recipe
    with pytest.raises(
        RecipeError, match=r"decoder\.attention = 8: the decoder is show-tell, but this is for show-attend"
    ):
        load_recipe(toml("[decoder]\nname = 'show-tell'\nattention = 8"))


def test_the_decoders_are_those_that_can_be_built() -> None:
    pytest.importorskip("torch", reason="the extra `train` is not installed")
    from captionkit.models.captioning_model import DECODERS
    from captionkit.models.transformer_decoder import SIZES

    fields = dict(recipe_fields())
    types = get_type_hints(DecoderRecipe)
    assert set(get_args(types["name"])) == set(DECODERS)
    assert set(get_args(types["size"])) == set(SIZES)
    sizes = ", ".join("/".join(map(str, values.values())) for values in SIZES.values())
    assert sizes in fields["decoder.size"].metadata["help"]
    for name, (config, _) in DECODERS.items():
        for leaf in dataclasses.fields(config):
            if leaf.name not in ("rows", "columns"):  # which follow from the images
                of = fields[f"decoder.{leaf.name}"].metadata["of"]
                assert not of or name in of


def test_shipped_recipes_load_and_are_found_by_nearest_name() -> None:
    names = shipped_recipes()
    family = {"flickr8k", "flickr8k-show-tell", "flickr8k-hard", "flickr8k-transformer"}
    assert {"flickr8k-finetune", "show-tell", *family} <= set(names)
    alike = [load_recipe(name) for name in family]
    for table in ("data", "image", "encoder"):  # so that they compare decoders and nothing else
        assert len({json.dumps(recipe.to_dict()[table]) for recipe in alike}) == 1
    assert len({(recipe.trainer.epochs, recipe.trainer.batch_size) for recipe in alike}) == 1
    for name in names:
        assert load_recipe(name) != Recipe()
    with pytest.raises(RecipeError, match="did you mean 'flickr8k'"):
        load_recipe("flikr8k")
    with pytest.raises(RecipeError, match=r"none\.toml: cannot be read"):
        load_recipe("none.toml")


def test_a_run_that_starts_from_a_model_and_names_no_recipe_takes_the_one_for_it(toml) -> None:
    taken = load_recipe(None, {"trainer.init": "bundled", "trainer.epochs": "3"})
    named = load_recipe("fine-tune")
    assert taken.data == named.data and taken.decoder == named.decoder and taken.image == named.image
    assert (taken.trainer.init, taken.trainer.epochs) == ("bundled", 3)  # flags win
    assert taken.to_flags() == ["--trainer.epochs", "3", "--init", "bundled"]
    assert load_recipe(None, {"trainer.init": ""}) == Recipe()
    # A recipe that is named is taken as it is, and its run's command spells out all that differs.
    plain = load_recipe(toml("[optimizer]\nepochs = 20\n"), {"trainer.init": "bundled"})
    assert dataclasses.replace(plain, run=Recipe().run) == Recipe()
    parsed = cli._parser(["train"]).parse_args(["train", "data", "--output", "run", *plain.to_flags()])
    flags = {name.removeprefix("recipe:"): value for name, value in vars(parsed).items() if name.startswith("recipe:")}
    assert load_recipe(None, {name: value for name, value in flags.items() if value is not None}) == plain


def test_the_recipe_to_start_from_a_model_fits_any_decoder_and_encoder() -> None:
    """Sizes are the model's own, and a field of one decoder would be refused by another's."""
    recipe, sizes = load_recipe("fine-tune"), {"decoder.dropout", "decoder.feature_dropout"}
    for name, leaf in recipe_fields():
        if leaf.metadata["of"] or (name.startswith("decoder.") and name not in sizes) or name == "encoder.first_stage":
            assert recipe.value(name) == leaf.default, name


def test_a_field_that_was_added_changes_no_earlier_run(tmp_path: Path) -> None:
    trainer = pytest.importorskip("captionkit.training.trainer", reason="the extra `train` is not installed")
    setup = SimpleNamespace(
        sources=[], val=SimpleNamespace(fingerprint=lambda: "val"), tokenizer=SimpleNamespace(to_json=lambda: "text")
    )
    usual, frozen = (load_recipe(None, {"encoder.freeze_norms": value}) for value in ("false", "true"))
    assert trainer._fingerprint(usual, setup, "") != trainer._fingerprint(frozen, setup, "")
    before = asdict(usual)
    del before["encoder"]["freeze_norms"]
    for name in ("workers", "recompute", "checkpoint_every", "samples", "half_weights", "trackers"):
        del before["run"][name]
    facts = json.dumps([before, [], "val", "text", ""], sort_keys=True)
    assert trainer._fingerprint(usual, setup, "") == hashlib.sha256(facts.encode()).hexdigest()
