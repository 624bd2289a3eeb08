"""The Makefile hands variables on to commands, and refuses those that a target does not take."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from refusals import CHECKOUT

# A make that runs these tests hands its own variables down.
ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS", "ARGS"))}


def make(*arguments: str, folder: Path = CHECKOUT) -> subprocess.CompletedProcess:
    return subprocess.run(["make", *arguments], capture_output=True, text=True, cwd=folder, env=ENVIRONMENT)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["train", "SEED=3"], "SEED is not a variable of this Makefile; known are ENV METHOD"),
        (
            ["table", "METHOD=varibad"],
            "make table takes no METHOD=; it takes ENV METHODS SEEDS STEPS SCALE JOBS ARGS SETTING DATA",
        ),
        (["versus-torch", "SEEDS=3"], "make versus-torch takes no SEEDS=; it takes EXTRAS ENV ARGS"),
        (["benchmark", "SEEDS=3"], "make benchmark takes no SEEDS=; it takes EXTRAS ENV ARGS"),
        (["lint", "ARGS=-x"], "make lint takes no ARGS=; it takes none"),
    ],
)
def test_make_refuses_a_variable_that_would_change_nothing(arguments, message):
    process = make("-n", *arguments)
    assert process.returncode == 2
    assert message in process.stderr


ODD = "runs/it's a $HOME rün"


@pytest.mark.parametrize(
    "target, variable, end",
    [
        ("train", "OUT", "--out 'runs/it'\\''s a $HOME rün' \n"),
        ("train", "DATA", "--offline.data 'runs/it'\\''s a $HOME rün'     \n"),
        ("collect", "OUT", "--out 'runs/it'\\''s a $HOME rün' \n"),
        ("table", "DATA", "--data 'runs/it'\\''s a $HOME rün'      \n"),
        ("eval", "RUN", "--run 'runs/it'\\''s a $HOME rün' \n"),
        ("export", "RUN", "--run 'runs/it'\\''s a $HOME rün'  \n"),
        ("video", "RUN", "--runs 'runs/it'\\''s a $HOME rün'   \n"),
        ("watch", "RUN", "--logdir 'runs/it'\\''s a $HOME rün' \n"),
        ("beliefs", "RUN", "--run 'runs/it'\\''s a $HOME rün'  \n"),
    ],
)
def test_make_hands_a_path_on_as_it_was_typed(target, variable, end):
    process = make("-n", target, f"{variable}={ODD}")
    assert process.returncode == 0, process.stderr
    assert process.stdout.endswith(end)


def test_what_is_no_run_is_not_watched(tmp_path):
    process = make("watch", f"RUN={tmp_path}/it's none")
    assert process.returncode == 2 and "--logdir" not in process.stdout
    assert f"error: run is '{tmp_path}/it's none'; it must be a run folder" in process.stderr


def test_make_runs_on_paths_with_spaces(tmp_path):
    """A real target, in a folder that has the Makefile and an environment that is set up."""
    commands = tmp_path / ".venv" / "bin"
    commands.mkdir(parents=True)
    for name in ("pyproject.toml", "requirements.lock", ".venv/bin/uv", ".venv/.setup-dev"):
        (tmp_path / name).touch()
    (commands / "dynamite-jax").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m dynamite_jax "$@"\n')
    (commands / "dynamite-jax").chmod(0o755)
    shutil.copy(CHECKOUT / "Makefile", tmp_path)
    for name in ("my rün", "other"):
        shutil.copytree(CHECKOUT / "tests" / "files" / "run_v0", tmp_path / "runs" / name)
    arguments = ["plot", "RUNS='runs/my rün' runs/other", "ARGS=--out 'two runs.png'"]
    process = make(*arguments, folder=tmp_path)
    assert process.returncode == 0, process.stderr
    assert (tmp_path / "two runs.png").stat().st_size > 1000


def test_make_takes_every_variable_that_its_help_names():
    for line in (CHECKOUT / "Makefile").read_text().splitlines():
        if match := re.match("([a-z-]+):.*## (.*)", line):
            target, description = match.groups()
            variables = set(re.findall(r"[A-Z]+(?==)", description))
            arguments = [f"{name}=1" for name in variables - {"EXTRAS", "SCALE"}]
            process = make("-n", target, *arguments)
            assert process.returncode == 0, process.stderr
