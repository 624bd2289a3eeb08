"""Agents learn what can be learnt: every probe to its closed form, the gridworld past its local optimum."""

import dataclasses

import pytest

from dynamite_jax import presets, train
from envs.registry import MAKERS

# Each trains for about a minute: the quick run takes one without and one with a choice to learn.
QUICK = ("probe_context_reward", "probe_match")
PROBES = [
    pytest.param(name, marks=[] if name in QUICK else [pytest.mark.slow])
    for name in MAKERS
    if name.startswith("probe_")
]


@pytest.mark.parametrize("env", PROBES)
def test_probe_is_learnt_to_its_known_value(env, tmp_path):
    config = dataclasses.replace(presets.default(env, "dynamite"), seeds=2, eval_episodes=4096)
    summary = train.train(config, tmp_path / "run")
    best = summary["eval"]["references"]["bayes_optimal"]
    for found in summary["eval"]["return"]["per_seed"]:
        assert found == pytest.approx(best, rel=0.03, abs=0.03)


@pytest.mark.slow
def test_gridworld_gets_near_bayes_optimal(tmp_path):
    config = dataclasses.replace(presets.default("gridworld", "dynamite"), seeds=2)
    summary = train.train(config, tmp_path / "run")
    assert min(summary["eval"]["fraction_of_bayes_optimal_per_seed"]) > 0.94


@pytest.mark.slow
def test_gridworld_without_memory_stays_far_below(tmp_path):
    config = dataclasses.replace(presets.default("gridworld", "markov"), seeds=2, steps=4_000_000)
    summary = train.train(config, tmp_path / "run")
    assert max(summary["eval"]["fraction_of_bayes_optimal_per_seed"]) < 0.7
