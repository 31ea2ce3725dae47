"""The flags: how they are called in all commands, their old names, and the help."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from captionkit.cli import main as cli


def commands() -> dict[str, argparse.ArgumentParser]:
    """The parser of each command, with the flags that are added only where it is asked for."""
    names = choices(cli._parser([]))
    return {name: choices(cli._parser([name]))[name] for name in names}


def choices(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    return next(action for action in parser._actions if isinstance(action, argparse._SubParsersAction)).choices


COMMANDS = commands()

OLD = [
    (["caption", "x.jpg"], "--beam", "4", "--num-beams", "decoding:num_beams"),
    (["caption", "x.jpg"], "--no-repeat", "2", "--no-repeat-ngram-size", "decoding:no_repeat_ngram_size"),
    (["caption", "x.jpg"], "--groups", "2", "--num-beam-groups", "decoding:num_beam_groups"),
    (["caption", "x.jpg"], "--diversity", "0.1", "--diversity-penalty", "decoding:diversity_penalty"),
    (["caption", "x.jpg"], "--words", "a,b", "--force-words", "decoding:force_words"),
    (["caption", "x.jpg"], "--ban", "a,b", "--bad-words", "decoding:bad_words"),
    (["caption", "x.jpg"], "--horizon", "1", "--early-stop-horizon", "decoding:early_stop_horizon"),
    (["caption", "x.jpg"], "--sample-seed", "7", "--seed", "decoding:seed"),
    (["caption", "x.jpg"], "--batch", "8", "--batch-size", "batch_size"),
    (["evaluate", "m", "d"], "--sample-seed", "7", "--seed", "decoding:seed"),
    (["name", "d", "--noun", "bird"], "--batch", "8", "--batch-size", "batch_size"),
    (["sweep", "d", "--output", "o"], "--timeout", "3", "--max-minutes", "max_minutes"),
    (["export", "m"], "--pictures", "d", "--images", "images"),
    (["serve"], "--max-batch", "4", "--max-batch-size", "serve:max_batch_size"),
    (["tune", "m", "d"], "--beam", "1,2", "--num-beams", "num_beams"),
    (["tune", "m", "d"], "--no-repeat", "1,2", "--no-repeat-ngram-size", "no_repeat_ngram_size"),
    (["tune", "m", "d"], "--horizon", "1,2", "--early-stop-horizon", "early_stop_horizon"),
]


@pytest.mark.parametrize(("command", "old", "value", "new", "dest"), OLD)
def test_old_flags_are_taken_with_a_notice(
    command: list[str], old: str, value: str, new: str, dest: str, capsys: pytest.CaptureFixture[str]
) -> None:
    parser = cli._parser(command)
    present = parser.parse_args([*command, new, value])
    assert capsys.readouterr().err == ""
    for former in ([old, value], [f"{old}={value}"]):
        assert getattr(parser.parse_args([*command, *former]), dest) == getattr(present, dest)
        assert capsys.readouterr().err == f"captionkit: {old} is now {new}\n"
    assert f"{old} " not in COMMANDS[command[0]].format_help().replace(f"{new} ", "")


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_of_a_command_fits_a_terminal(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    parser = COMMANDS[name]
    lines = parser.format_help().splitlines()
    assert all(len(line) <= 80 for line in lines)
    assert lines[0].startswith(f"usage: captionkit {name} ")
    shown = {action for action in parser._actions if action.help != argparse.SUPPRESS}
    assert all(action.help for action in shown)


def test_the_help_has_every_command_in_a_group(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit) as stopped:
        cli.main(["--help"])
    out = capsys.readouterr().out
    assert stopped.value.code == 0
    assert "others:" not in out, "name the command in _GROUPS of cli/main.py"
    for name in COMMANDS:
        (line,) = (line for line in out.splitlines() if line.startswith(f"  {name} "))
        assert len(line) <= 80 and len(line.split(None, 1)[1]) > 10


def test_a_mistyped_flag_is_answered_with_its_present_name(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        cli.main(["caption", "x.jpg", "--num-beems", "3"])
    assert stopped.value.code == 2
    assert "--num-beems is not understood; did you mean --num-beams?" in capsys.readouterr().err


def test_a_mistyped_command_is_answered_with_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    for mistyped, way_out in (("captoin", "did you mean caption?"), ("xyz", "known: caption, ")):
        with pytest.raises(SystemExit) as stopped:
            cli.main([mistyped, "x.jpg"])
        assert stopped.value.code == 2
        assert f"there is no command {mistyped!r}; {way_out}" in capsys.readouterr().err


def test_average_takes_the_data_last_and_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, model = tmp_path / "data", tmp_path / "model"
    data.mkdir()
    model.mkdir()
    (model / "config.json").write_text("{}")
    models = [str(model), "bundled"]
    assert cli._models_and_data(models, str(data)) == (models, str(data))
    assert cli._models_and_data(["owner/name", *models], "nowhere") == (["owner/name", *models], "nowhere")
    assert capsys.readouterr().err == ""
    assert cli._models_and_data([str(data), models[0]], models[1]) == (models, str(data))
    assert "the data comes last now: captionkit average MODEL MODEL ... DATA" in capsys.readouterr().err


def test_serve_takes_its_model_by_place_with_a_notice(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("fastapi", reason="the extra `serve` is not installed")
    asked = []
    monkeypatch.setattr("captionkit.serve.server.serve", lambda model, settings: asked.append(model))
    assert cli.main(["serve", "--model", "one"]) == 0
    assert capsys.readouterr().err == ""
    assert cli.main(["serve", "two"]) == 0
    assert asked == ["one", "two"]
    assert "captionkit serve --model MODEL" in capsys.readouterr().err
    assert cli.main(["serve", "two", "--model", "one"]) == 1
    assert asked == ["one", "two"]
    assert "'two': the model is named by --model alone" in capsys.readouterr().err
