"""`dynamite-jax COMMAND`: the words that choose a command."""

import importlib
import re
import sys
from pathlib import Path

import pytest

from dynamite_jax import __version__, cli


def call(monkeypatch, *words: str) -> None:
    monkeypatch.setattr(sys, "argv", ["dynamite-jax", *words])
    cli.main()


@pytest.mark.parametrize("words", [(), ("-h",), ("--help",)])
def test_help_lists_every_command(words, monkeypatch, capsys):
    call(monkeypatch, *words)
    listed = capsys.readouterr().out
    assert re.findall(r"^  (\S+)", listed, re.MULTILINE) == list(cli.COMMANDS)


def test_every_command_is_a_module_with_a_main_and_a_target_of_make():
    targets = re.findall(r"^([a-z-]+):", (Path(__file__).parents[2] / "Makefile").read_text(), re.MULTILINE)
    for name, (module, _) in cli.COMMANDS.items():
        assert callable(importlib.import_module(module).main)
        assert name in targets


def test_the_version_is_printed(monkeypatch, capsys):
    call(monkeypatch, "--version")
    assert capsys.readouterr().out.strip() == __version__


def test_an_unknown_command_is_answered_with_the_nearest_name(monkeypatch, capsys):
    with pytest.raises(SystemExit) as stop:
        call(monkeypatch, "tarin", "--seeds", "2")
    out, err = capsys.readouterr()
    assert (stop.value.code, out) == (2, "")
    assert (
        err.startswith(
            "error: command is 'tarin'; did you mean 'train'? allowed: train, collect, to-minari, from-minari, eval"
        )
        and err.count("\n") == 1
    )


def test_a_command_gets_the_words_behind_its_name(monkeypatch, capsys):
    with pytest.raises(SystemExit) as stop:
        call(monkeypatch, "train", "--env", "gridwrold")
    assert stop.value.code == 2 and "env is 'gridwrold'" in capsys.readouterr().err
