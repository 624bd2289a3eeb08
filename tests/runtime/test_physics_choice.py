"""A run keeps the physics it began with, and says which it is."""

import dataclasses
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from conftest import assert_same, tiny_config
from dynamite_jax import config as configs
from dynamite_jax.analysis.evaluation import load_run
from dynamite_jax.config import Config, ConfigError, PhysicsConfig
from dynamite_jax.runtime import training


def config_of(impl: Any, chunks: int = 1) -> Config:
    options = {"env_options": {"horizon": 10}, "physics": PhysicsConfig(impl), "eval_episodes": 8}
    return tiny_config("reacher", chunk=1, steps=80 * chunks, **options)


def stored(run: Path) -> str:
    return json.loads((run / "config.json").read_text())["physics"]["impl"]


def stop_early(run: Path) -> None:
    """As if the run had been killed before its end."""
    (run / "summary.json").unlink()


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "auto"
    training.train(config_of("auto", chunks=2), folder)
    return folder


def test_a_run_says_which_physics_it_used(run):
    assert stored(run) == "c"


def test_a_run_of_another_machine_is_looked_at_with_the_physics_of_this_one():
    env: Any = configs.environment(config_of("jax"))
    assert env.simulator.impl == "c"


def test_what_is_printed_names_the_physics(tmp_path, capsys):
    training.train(config_of("auto"), tmp_path / "run")
    assert "; physics by C MuJoCo; compiling" in capsys.readouterr().err
    training.train(tiny_config("probe_match", chunk=1, steps=160), tmp_path / "other")
    assert "physics" not in capsys.readouterr().err


def test_a_run_resumes_with_its_physics_and_not_with_another(run, tmp_path):
    again = tmp_path / "again"
    shutil.copytree(run, again)
    stop_early(again)
    with pytest.raises(ConfigError, match="physics.impl: 'c' -> 'jax'"):
        training.train(config_of("jax", chunks=2), again, resume=True)
    training.train(config_of("auto", chunks=2), again, resume=True)
    assert stored(again) == "c"


def test_a_run_by_mjx_resumes_by_mjx(tmp_path, capsys):
    training.train(config_of("jax"), tmp_path / "run")
    stop_early(tmp_path / "run")
    capsys.readouterr()
    training.train(config_of("auto"), tmp_path / "run", resume=True)
    assert stored(tmp_path / "run") == "jax"


def test_a_run_of_another_machine_evaluates_here_and_says_with_what(run, tmp_path, capsys, monkeypatch):
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(run, elsewhere)
    config = configs.load(run / "config.json")
    configs.save(dataclasses.replace(config, physics=PhysicsConfig("warp")), elsewhere / "config.json")
    monkeypatch.setattr("mujoco.mjx.warp.WARP_INSTALLED", False)
    program, params, _ = load_run(elsewhere)
    assert "warning: physics.impl is 'warp'; it needs the package warp-lang" in capsys.readouterr().err
    assert program.config.physics.impl == "c"
    assert_same(params, load_run(run)[1])


def test_a_command_says_in_one_line_that_it_falls_back():
    code = (
        "from dynamite_envs.physics import c, backend; from dynamite_jax import errors\n"
        "c._unusable = lambda: 'it is away'\n"
        "errors.one_line_errors(lambda: print(backend.resolve('auto')))()"
    )
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert process.stdout == "jax\n"
    assert process.stderr == "warning: physics is computed by MJX, which is slower: impl is 'c'; it is away\n"


def test_an_environment_without_physics_names_none():
    config = tiny_config("probe_match")
    assert configs.settled(config, configs.validate(config)) == config
