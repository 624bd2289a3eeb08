"""Commands that must refuse their input: one line on stderr, exit code 2, nothing compiled and nothing written."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dynamite_jax import config as configs
from dynamite_jax.config import Config, PPOConfig, VAEConfig
from dynamite_jax.runtime.program import Program

Refused = Callable[..., str]
CHECKOUT = Path(__file__).parents[2]


def contents(folder: Path) -> dict[str, bytes | None]:
    """Everything under a folder, with its contents."""
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None for p in folder.rglob("*")}


@pytest.fixture
def refused(monkeypatch, capfd, tmp_path) -> Refused:
    """Runs a command that must be refused, in an empty folder; gives the line it prints, without `error: `."""
    monkeypatch.chdir(tmp_path)

    def run(command: Any, *arguments: Any, compiles: bool = False) -> str:
        with monkeypatch.context() as patch:
            patch.setattr(sys, "argv", [command.__name__, *map(str, arguments)])
            if not compiles:
                patch.setattr(Program, "compile", None)
            before = contents(tmp_path)
            with pytest.raises(SystemExit) as stop:
                command.main()
        assert contents(tmp_path) == before
        out, err = capfd.readouterr()
        assert (stop.value.code, out) == (2, "")
        return only_line(err)

    return run


def only_line(err: str) -> str:
    """The only line of a command's stderr, without `error: `."""
    assert err.startswith("error: ") and err.endswith("\n") and err.count("\n") == 1, err
    return err.removeprefix("error: ").strip()


def save_run(folder: Path) -> Path:
    """A run folder that holds only its config."""
    folder.mkdir()
    config = Config("gridworld", "dynamite", seeds=4, vae=VAEConfig(kl_weight=0.01), ppo=PPOConfig(lr=7e-4))
    configs.save(config, folder / "config.json")
    return folder
