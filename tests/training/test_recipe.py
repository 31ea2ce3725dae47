"""Recipes: files, flags and defaults set one tree of checked values."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import get_args, get_type_hints

import pytest

pytest.importorskip("pydantic", reason="the extra `train` is not installed")

import reference_pages
from captionkit.cli import main as cli
from captionkit.errors import RecipeError
from captionkit.training.config.recipe import (
    Recipe,
    flag_of,
    load_recipe,
    recipe_fields,
    recipe_tables,
    shipped_recipes,
)
from captionkit.training.config.renamed import RENAMED
from captionkit.training.config.schema import DecoderRecipe

tomli_w = pytest.importorskip("tomli_w", reason="the extra `train` is not installed")


@pytest.fixture
def toml(tmp_path: Path):
    def write(content: str) -> str:
        path = tmp_path / "mine.toml"
        path.write_text(content, encoding="utf-8")
        return str(path)

    return write


def test_flags_win_over_the_file_and_the_file_over_defaults(toml) -> None:
    path = toml("[optimizer]\nlr_decoder = 5e-4\n[trainer]\nepochs = 7\n[image]\nflip_unless = ['links', 'rechts']\n")
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
        ("[trainer]\nepochs = 0", "trainer.epochs = 0: .*greater than or equal to 1"),
        ("[trainer]\nepochs = 2.5", "trainer.epochs = 2.5: .*integer"),
        ("[optimizer]\nlr_decoder = '1e-3'", "optimizer.lr_decoder = '1e-3': .*number"),
        ("[optimizer]\nlr_decoder = true", "optimizer.lr_decoder = True: .*number"),
        ("[optimizer]\nlr_decoder = nan", "optimizer.lr_decoder = nan: .*finite"),
        ("[trainer]\nema_decay = 1.0", "trainer.ema_decay = 1.0: .*less than 1"),
        ("[run]\npatiense = 1", "run.patiense is not a field.*did you mean 'trainer.patience'"),
        ("[trainer]\nsave_dtype = true", "trainer.save_dtype = True: .*'float32' or 'float16'"),
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
        load_recipe(toml("[trainer]\nepochs = 0\nbatch_size = 0"))


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
    assert re.fullmatch(r"captionkit: command line: trainer\.epochs = 'none': .*integer.*\n", capsys.readouterr().err)
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
        assert flag_of(name) in known[f"recipe:{name}"]
        assert leaf.metadata["help"]
    assert known["recipe:trainer.seed"] == ["--trainer.seed", "--seed"]


def _changed(leaf: dataclasses.Field) -> str:
    """Another value than the default, as one would type it."""
    choices = {
        "tokenizer": "bpe",
        "fit": "crop",
        "train": "stages",
        "precision": "bf16",
        "monitor": "loss",
        "save_dtype": "float16",
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
    from captionkit.models.decoder_config import CONFIGS, SIZES

    fields = dict(recipe_fields())
    types = get_type_hints(DecoderRecipe)
    assert set(get_args(types["name"])) == set(DECODERS) == set(CONFIGS)
    assert set(get_args(types["size"])) == set(SIZES)
    sizes = ", ".join("/".join(map(str, values.values())) for values in SIZES.values())
    assert sizes in fields["decoder.size"].metadata["help"]
    for name, config in CONFIGS.items():
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
    assert taken.to_flags() == ["--init", "bundled", "--trainer.epochs", "3"]
    assert load_recipe(None, {"trainer.init": ""}) == Recipe()
    # A recipe that is named is taken as it is, and its run's command spells out all that differs.
    plain = load_recipe(toml("[trainer]\nepochs = 20\n"), {"trainer.init": "bundled"})
    assert dataclasses.replace(plain, trainer=Recipe().trainer) == Recipe()
    parsed = cli._parser(["train"]).parse_args(["train", "data", "--output", "run", *plain.to_flags()])
    flags = {name.removeprefix("recipe:"): value for name, value in vars(parsed).items() if name.startswith("recipe:")}
    assert load_recipe(None, {name: value for name, value in flags.items() if value is not None}) == plain


def test_the_recipe_to_start_from_a_model_fits_any_decoder_and_encoder() -> None:
    """Sizes are the model's own, and a field of one decoder would be refused by another's."""
    recipe, sizes = load_recipe("fine-tune"), {"decoder.dropout", "decoder.feature_dropout"}
    for name, leaf in recipe_fields():
        if leaf.metadata["of"] or (name.startswith("decoder.") and name not in sizes) or name == "encoder.first_stage":
            assert recipe.value(name) == leaf.default, name


#: each field that has another name now, changed
EARLIER = {
    "data.holdout": "0.1",
    "data.val_pictures": "7",
    "data.min_frequency": "2",
    "image.crop": "0.5",
    "image.colour": "0.2",
    "encoder.thaw": "0.5",
    "encoder.stage_decay": "0.9",
    "optimizer.objective": "self-critical",
    "optimizer.epochs": "3",
    "optimizer.epoch_steps": "4",
    "optimizer.batch_size": "16",
    "optimizer.accumulate": "2",
    "optimizer.floor": "0.1",
    "optimizer.clip": "0.5",
    "optimizer.label_smoothing": "0.2",
    "optimizer.coverage": "0.5",
    "optimizer.hard_reward": "0.3",
    "optimizer.hard_entropy": "0.01",
    "optimizer.scheduled_sampling": "0.25",
    "optimizer.ema": "0.9",
    "run.seed": "5",
    "run.init": "bundled",
    "run.precision": "bf16",
    "run.workers": "2",
    "run.recompute": "true",
    "run.compile": "true",
    "run.eval_every": "0.5",
    "run.keep": "loss",
    "run.patience": "2",
    "run.checkpoint_every": "60",
    "run.samples": "3",
    "run.half_weights": "true",
    "run.trackers": "wandb",
}


def test_earlier_names_of_fields_are_read_with_one_notice(toml, capsys: pytest.CaptureFixture[str]) -> None:
    assert set(EARLIER) == set(RENAMED)
    present = {RENAMED[name]: value for name, value in EARLIER.items()} | {"trainer.save_dtype": "float16"}
    expected = load_recipe(None, present)
    assert all(expected.value(name) != leaf.default for name, leaf in recipe_fields() if name in present)
    assert load_recipe(None, EARLIER) == expected
    (notice,) = capsys.readouterr().err.splitlines()
    assert notice.startswith("captionkit: command line: --data.holdout is now --data.val-fraction,")

    tables: dict[str, dict] = {}
    for name in EARLIER:
        table, _, leaf = name.partition(".")
        tables.setdefault(table, {})[leaf] = name == "run.half_weights" or expected.value(RENAMED[name])
    path = toml(tomli_w.dumps(tables))
    assert load_recipe(path).trainer == expected.trainer
    (notice,) = capsys.readouterr().err.splitlines()
    assert notice.startswith(f"captionkit: {path}: data.holdout is now data.val_fraction,")
    assert load_recipe(toml("[trainer]\nepochs = 3\n")).trainer.epochs == 3
    assert not capsys.readouterr().err


def test_an_optimizer_that_is_gone_is_answered_with_what_to_use(toml) -> None:
    wanted = "optimizer.name = 'adam' is gone; use 'adamw', which is the same with optimizer.weight_decay 0"
    path = toml("[optimizer]\nname = 'adam'")
    for origin, arguments in ((path, (path,)), ("command line", (None, {"optimizer.name": "adam"}))):
        with pytest.raises(RecipeError) as caught:
            load_recipe(*arguments)
        assert str(caught.value) == f"{origin}: {wanted}"


@pytest.mark.parametrize(
    "content", ["[optimizer]\nepochs = 3\n[trainer]\nepochs = 3\n", "[data]\nmin_frequency = 2\nmin_freq = 2\n"]
)
def test_a_field_under_both_names_is_refused(toml, content: str) -> None:
    path = toml(content)
    with pytest.raises(RecipeError, match=r"is given twice, as \w+\.\w+ too, its earlier name; leave out") as caught:
        load_recipe(path)
    assert str(caught.value).startswith(path)
    with pytest.raises(
        RecipeError, match=r"command line: trainer\.batch_size is given twice, as optimizer\.batch_size"
    ):
        load_recipe(None, {"trainer.batch_size": "2", "optimizer.batch_size": "2"})


def test_earlier_flags_are_understood(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    flags = ["--optimizer.batch-size", "4", "--run.keep", "cider"]
    assert cli.main(["train", str(tmp_path), "--output", str(tmp_path / "run"), *flags]) == 1  # there are no data
    said = capsys.readouterr().err.splitlines()
    assert said[0] == (
        "captionkit: command line: --optimizer.batch-size is now --trainer.batch-size, --run.keep is now "
        "--trainer.monitor; the earlier names are read for one more version"
    )


def test_help_lists_the_fields_by_table(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "132")
    with pytest.raises(SystemExit):
        cli.main(["train", "--help"])
    told = capsys.readouterr().out
    assert re.findall(r"^\[(\w+)\]:", told, re.MULTILINE) == [table for table, _, _ in recipe_tables()]
    assert "--trainer.batch-size N, --batch-size N" in told and "--run.keep" not in told
    for name, _ in recipe_fields():
        assert re.search(rf"^  .*{re.escape(flag_of(name))} .*", told, re.MULTILINE), name
    assert max(map(len, told.splitlines())) <= 132


def test_the_reference_has_every_field() -> None:
    page = reference_pages.recipe_fields_page()
    sections = dict(zip(*[iter(re.split(r"^## `\[(\w+)\]`\n", page, flags=re.MULTILINE)[1:])] * 2, strict=True))
    for table, _, leaves in recipe_tables():
        assert re.findall(r"^\| `(\w+)` \|", sections[table].partition("## ")[0], re.MULTILINE) == [
            leaf.name for leaf in leaves
        ]
    assert set(re.findall(r"^\| `(\w+\.\w+)` \| `\w+\.\w+`", page, re.MULTILINE)) == set(RENAMED)


def test_what_binds_a_checkpoint_to_its_recipe_is_as_it_was_at_first() -> None:
    """The digests are those of captionkit before fields were added and renamed."""
    trainer = pytest.importorskip("captionkit.training.trainer", reason="the extra `train` is not installed")
    setup = SimpleNamespace(
        sources=[], val=SimpleNamespace(fingerprint=lambda: "val"), tokenizer=SimpleNamespace(to_json=lambda: "text")
    )

    def fingerprint(fields: dict[str, str]) -> str:
        return trainer._fingerprint(load_recipe(None, fields), setup, "")

    usual = fingerprint({})
    assert usual == "9555c77d6aba4909cdaee9c06d2f61d6cb24f7bea89a0777ff577fdee25eadf8"
    assert fingerprint(EARLIER) == "fd26203a4571fc243ca2160260699b02efa1504d83783ef46bc34710c9d37b05"
    assert fingerprint({"encoder.freeze_norms": "true"}) != usual
    free = {"data.num_workers": "1", "trainer.report": "false", "trainer.save_dtype": "float16"}
    assert fingerprint(free) == usual
