"""Runs whose agents play the episodes of a set, as they were at some time of their training."""

import dataclasses
import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from conftest import assert_same, tiny_config
from dynamite_envs import registry
from dynamite_envs.errors import UserError
from dynamite_jax import config as configs
from dynamite_jax.config import Config
from dynamite_jax.datasets import collection, dataset, sources
from dynamite_jax.runtime import training
from recorded import collected


@pytest.fixture(scope="module")
def behaviour(tmp_path_factory):
    """A run of two agents that keeps all of its six checkpoints."""
    out, steps = tmp_path_factory.mktemp("behaviour") / "run", 6 * 2 * 8 * registry.make("probe_match").horizon
    config = tiny_config("probe_match", "markov", steps=steps, checkpoints_kept=0, ppo={"lr": 0.03})
    training.train(config, out)
    return out


def plan(words, shards=12):
    return sources.Sources(words, Config(env="probe_match"), registry.make("probe_match"), 4).plan(shards)


def test_a_replay_goes_through_all_checkpoints_and_agents(behaviour):
    played = plan([f"mixed:{behaviour}"])
    assert [who.chunk for who in played] == sorted([1, 2, 3, 4, 5, 6] * 2)
    assert {(who.chunk, who.agent) for who in played} == {(chunk, agent) for chunk in range(1, 7) for agent in (0, 1)}
    assert {who.chunk for who in plan([f"expert:{behaviour}"])} == {6}


def test_medium_is_half_way_to_the_return_at_the_end(behaviour):
    returns = [json.loads(line)["return_iqm"] for line in (behaviour / "metrics.jsonl").read_text().splitlines()]
    half = (returns[0] + returns[-1]) / 2
    (chunk,) = {who.chunk for who in plan([f"medium:{behaviour}"])}
    assert chunk
    assert returns[chunk - 1] >= half and all(value < half for value in returns[: chunk - 1])


def test_a_shard_is_what_its_agent_plays_with_the_key_of_the_shard(behaviour, tmp_path):
    collected(tmp_path, policies=(f"expert:{behaviour}",), episodes=8)
    env = registry.make("probe_match")
    opened = sources.Sources([f"expert:{behaviour}"], Config(env="probe_match"), env, 4)
    run = opened.runs[behaviour]
    episodes = run.play(
        run.params(6, 1), 4, jax.random.fold_in(jax.random.fold_in(jax.random.key(3), collection.STREAM), 1)
    )
    assert_same(dataset.read_shard(tmp_path, 1, env), jax.device_get(episodes))
    card = json.loads((tmp_path / dataset.CARD).read_text())
    source = card["shards"][1]["source"]
    assert (source["word"], source["agent"], source["chunk"]) == (f"expert:{behaviour}", 1, 6)
    assert card["policies"][0]["config"]["method"] == "markov"


def test_agents_act_as_in_training(behaviour):
    """Sampled by their own probabilities, which their network gives."""
    env = registry.make("probe_match")
    run = sources.Sources([f"expert:{behaviour}"], Config(env="probe_match"), env, 4).runs[behaviour]
    params = run.params(1, 0)
    episodes = run.play(params, 400, jax.random.key(0))
    agent = run.program.agent
    features = agent.normalise(params.normaliser, "features", jnp.ones((1, 1)))
    share = jax.nn.softmax(agent.policy(params.policy_params, features)[0])[0]
    np.testing.assert_allclose(
        np.bincount(np.asarray(episodes.action).ravel()) / episodes.action.size, share, atol=0.03
    )


def test_a_run_that_kept_too_little_is_named(behaviour, tmp_path):
    training.train(tiny_config("probe_match", "markov"), tmp_path / "run")
    for kind in ("mixed", "medium"):
        with pytest.raises(
            UserError, match="keeps 2 checkpoints, and medium and mixed need 5; train it with --checkpoints-kept 0"
        ):
            plan([f"{kind}:{tmp_path / 'run'}"])
    assert plan([f"expert:{tmp_path / 'run'}"])


def test_a_collection_does_not_go_on_with_a_run_that_was_trained_anew(behaviour, tmp_path):
    run, out = Path(shutil.copytree(behaviour, tmp_path / "run")), tmp_path / "set"
    collected(out, policies=(f"expert:{run}",), episodes=8)
    (out / dataset.CARD).unlink()
    shutil.rmtree(run)
    config = dataclasses.replace(configs.load(behaviour / "config.json"), seed=9)
    training.train(config, run)
    configs.save(configs.load(behaviour / "config.json"), run / "config.json")  # as if only the code had changed
    with pytest.raises(UserError, match="whose collection has episodes of other policies"):
        collected(out, policies=(f"expert:{run}",), episodes=8)


def test_a_run_of_another_environment_is_refused(behaviour):
    config = Config(env="probe_match", env_options={"p": 0.5})
    with pytest.raises(UserError, match=r"is of probe_match \{\}; it must be of probe_match \{'p': 0.5\}"):
        sources.Sources([f"expert:{behaviour}"], config, registry.make("probe_match"), 4)
