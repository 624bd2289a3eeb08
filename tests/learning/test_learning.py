"""Agents learn what can be learnt: every probe to its closed form, the gridworld past its local optimum."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from dynamite_envs.registry import MAKERS

pytestmark = pytest.mark.learning


def evaluation(out: Path, *flags: str) -> dict:
    """The evaluation at the end of the real command, in a process whose compiler tries as hard as it does for users."""
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    command = [sys.executable, "-m", "dynamite_jax.train", "--seeds", "2", "--no-tensorboard", "--out", str(out)]
    subprocess.run([*command, *flags], env=environment, check=True, capture_output=True)
    return json.loads((out / "summary.json").read_text())["eval"]


@pytest.mark.parametrize("env", [name for name in MAKERS if name.startswith("probe_")])
def test_probe_is_learnt_to_its_known_value(env, tmp_path):
    result = evaluation(tmp_path / "run", "--env", env, "--eval-episodes", "8192")
    best = result["references"]["bayes_optimal"]
    for value in result["return"]["per_seed"]:
        assert value == pytest.approx(best, rel=0.03, abs=0.03)


@pytest.mark.slow
@pytest.mark.parametrize(
    "flags",
    ["varibad", "secbad", "contrabar", "rl2", "task_inference", "dynamite --network.encoder transformer"],
)
def test_every_memory_learns_to_match_a_context_that_flips(flags, tmp_path):
    result = evaluation(tmp_path / "run", "--env", "probe_match", "--method", *flags.split())
    assert min(result["fraction_of_bayes_optimal_per_seed"]) > 0.97


@pytest.mark.slow
def test_gridworld_gets_near_bayes_optimal(tmp_path):
    result = evaluation(tmp_path / "run")
    assert min(result["fraction_of_bayes_optimal_per_seed"]) > 0.94


@pytest.mark.slow
def test_gridworld_without_memory_stays_far_below(tmp_path):
    result = evaluation(tmp_path / "run", "--method", "markov", "--steps", "4000000")
    assert max(result["fraction_of_bayes_optimal_per_seed"]) < 0.7
