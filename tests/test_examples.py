"""The programs of examples/, run small."""

import json
import re
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import nbformat
import numpy as np
import pytest
from jax import export
from nbclient import NotebookClient

import dynamite_jax as dj

EXAMPLES = Path(__file__).parents[1] / "examples"


def test_a_search_by_optuna_goes_on_where_it_was_stopped(tmp_path, monkeypatch, capsys):
    optuna = pytest.importorskip("optuna", reason="Optuna is an extra: make setup EXTRAS=optuna")
    storage = f"sqlite:///{tmp_path / 'trials.db'}"
    arguments = ["--env", "probe_match", "--trials", "1", "--steps", "6400", "--seeds", "1", "--storage"]
    monkeypatch.setattr(sys, "argv", ["optuna_search.py", *arguments, storage])
    for number in (1, 2):
        runpy.run_path(str(EXAMPLES / "optuna_search.py"), run_name="__main__")
        assert f"{number} trials; the best return while training is" in capsys.readouterr().out
    study = optuna.load_study(study_name="probe_match dynamite 6400", storage=storage)
    first, second = study.trials
    assert first.params != second.params and study.best_value == max(first.value, second.value)
    assert 0.0 < first.user_attrs["return at the end"] < 20.0


def test_stock_trainers_print_and_keep_what_each_seed_reaches(tmp_path):
    pytest.importorskip("sb3_contrib", reason="Stable-Baselines3 is an extra: make setup EXTRAS=sb3")
    arguments = ["--env", "probe_match", "--steps", "1", "--seeds", "1", "2", "--set", '{"n_epochs": 1}', "--out"]
    command = [sys.executable, EXAMPLES / "stable_baselines.py", *arguments, tmp_path / "two.json"]
    printed = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=True).stdout
    first, second = json.loads((tmp_path / "two.json").read_text())["agents"]
    for agent in (first, second):
        assert agent["setting"]["n_epochs"] == 1 and agent["setting"]["policy_kwargs"] == {"lstm_hidden_size": 64}
        assert agent["steps"] == 64 * 20 and len(agent["curve"]) == 1 and 0.0 < agent["return"] < 20.0
        assert f"seed {agent['seed']}: return {agent['return']:.2f} after 1,280 steps" in printed
    assert first["curve"] != second["curve"]


def test_the_notebook_runs_from_the_first_cell_to_the_last(monkeypatch):
    """Its agent learns its environment, whose definition fits on a screen; the bar is one widget for each training."""
    notebook: Any = nbformat.read(EXAMPLES / "notebook.ipynb", 4)
    definition = next(cell.source for cell in notebook.cells if "class Thermostat" in cell.source)
    assert len(definition.splitlines()) < 40
    monkeypatch.delenv("XLA_FLAGS")  # it runs longer than it compiles
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(EXAMPLES)}}).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    returns, played = ("".join(o.text) for o in outputs if o.output_type == "stream" and o.name == "stdout")
    dynamite, markov = (np.mean(values) for values in json.loads(returns.replace("'", '"')).values())
    assert dynamite > -11.0 and -30.0 < markov < -20.0
    assert 42.0 < float(re.findall(r"[\d.]+", played)[0]) < 50.0
    kinds = [kind for output in outputs for kind in output.get("data", {})]
    assert kinds.count("application/vnd.jupyter.widget-view+json") == 2 and kinds.count("image/png") == 3


@pytest.mark.parametrize("name, least", [("gridworld", 44.5), ("halfcheetah_vel", -77.0), ("point_robot", -22.8)])
def test_shipped_policies_play_as_well_as_they_were_trained(name, least):
    folder = EXAMPLES / "policies" / name
    assert sum(file.stat().st_size for file in folder.iterdir()) < 1e6
    policy = dj.load_policy(folder)
    env = dj.make_env(policy.config.env)
    init, act = (export.deserialize(bytearray((folder / f"{part}.stablehlo").read_bytes())) for part in ("init", "act"))
    state = jax.jit(jax.vmap(env.reset))(jax.random.split(jax.random.key(0), 512))
    step, mind, returns = jax.jit(jax.vmap(env.step)), init.call(state.obs), np.zeros(512)
    own = policy.init()
    for _ in range(env.horizon):
        action, _, mind = act.call(mind, state.obs, state.reward)
        alone, own = policy.act(own, np.asarray(state.obs[0]), float(state.reward[0]))
        np.testing.assert_allclose(alone, action[0], atol=1e-4)  # of the other form of the same agent
        state = step(state, action)
        returns += state.reward
    assert returns.mean() > least
