"""Beliefs along episodes: step by step, of all steps at once, and by slow NumPy; recurrent and attending."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import numpy_elbo as reference
from conftest import assert_same
from dynamite_jax.agents.agent import Agent
from dynamite_jax.beliefs.latent import LatentBelief
from dynamite_jax.config import Config
from dynamite_jax.data.rollout import play
from dynamite_jax.data.types import AgentParams
from dynamite_jax.networks.transformer import Block
from episodes import BATCH, HORIZON, NETWORK, WEIGHTS, build, drift, scattered, statistics, to_numpy, trajectories


@pytest.mark.parametrize("encoder", ["gru", "transformer"])
@pytest.mark.parametrize("discrete", [True, False])
def test_beliefs_of_whole_episodes_are_those_of_acting(discrete, encoder):
    env = drift(discrete)
    config = Config(network=dataclasses.replace(NETWORK, encoder=encoder, heads=2))
    agent = Agent.build(config, env, LatentBelief.build(config, env))
    params = scattered(jax.eval_shape(agent.belief.init, jax.random.key(0)), seed=2)
    environment = jax.vmap(env.reset)(jax.random.split(jax.random.key(1), BATCH))
    features = agent.features(environment.obs, agent.belief.initial((BATCH,)))
    policy = scattered(jax.eval_shape(agent.network.init, jax.random.key(2), features))
    episode = jax.jit(partial(play, agent, env))
    acting = AgentParams(params, policy, statistics(features.shape[-1], env.observation_size))
    rollout, environments, acted = episode(acting, environment, jax.random.key(3))
    encoded = agent.belief.encode(params, agent.evidence(acting.normaliser, rollout.trajectories))
    for there, here in zip(jax.tree.leaves(acted), jax.tree.leaves(encoded.belief), strict=True):
        np.testing.assert_allclose(there[:HORIZON], here, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(rollout.boundary, encoded.boundary_logit > 0)
    assert 0 < np.mean(rollout.boundary) < 1
    # A step's session is the one under whose context its reward was made.
    np.testing.assert_array_equal(rollout.session[0], 0)
    np.testing.assert_array_equal(np.diff(rollout.session, axis=0), environments.switched[1:-1])
    sign = 2.0 * environments.context[:-1] - 1.0
    np.testing.assert_allclose(rollout.reward, sign * rollout.observation[1:, :, 0], rtol=1e-6)
    # What the policy saw: the observation, then mean and log-variance.
    expected = np.concatenate([rollout.observation[:-1], encoded.belief.mean, encoded.belief.log_variance], -1)
    np.testing.assert_allclose(rollout.features[:-1], expected, rtol=1e-5, atol=1e-6)
    if not discrete:
        assert np.abs(rollout.action).max() > 1.0  # the policy sampled what the environment clipped


@pytest.mark.parametrize("conditioning", [True, False])
@pytest.mark.parametrize("reset", [True, False])
def test_encoded_beliefs_are_those_of_the_slow_encoder(reset, conditioning):
    belief, params = build(dataclasses.replace(WEIGHTS, reset_at_boundary=reset, conditioning=conditioning))
    data = trajectories()
    states = belief.encode(params, data)
    action = np.clip(np.asarray(data.action, float), -1, 1)
    for b in range(BATCH):
        beliefs, logits = reference.encode(
            to_numpy(params)["params"],
            np.asarray(data.observation[:, b], float),
            action[:, b],
            np.asarray(data.reward[:, b], float),
            np.zeros(2),
            conditioning=conditioning,
            boundary_head=True,
            reset=reset,
        )
        mean, log_variance = map(np.array, zip(*beliefs, strict=True))
        np.testing.assert_allclose(states.belief.mean[:, b], mean, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(states.belief.log_variance[:, b], log_variance, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(states.boundary_logit[:, b], logits, rtol=1e-4, atol=1e-5)
    assert 0 < np.mean(np.asarray(states.boundary_logit) > 0) < 1


@pytest.mark.parametrize("encoder", ["gru", "transformer"])
def test_the_belief_at_a_step_knows_nothing_of_what_comes_after(encoder):
    belief, params = build(encoder=encoder)
    data = trajectories()
    changed = data.replace(
        observation=data.observation.at[4:].add(1.0),
        action=data.action.at[3:].add(1),
        reward=data.reward.at[3:].add(1.0),
    )
    before, after = belief.encode(params, data), belief.encode(params, changed)
    assert_same(*(jax.tree.map(lambda x: x[:4], states) for states in (before, after)))
    assert jnp.all(jnp.abs(before.belief.mean[4] - after.belief.mean[4]).max(-1) > 1e-4)


def test_the_transformer_sees_the_whole_history_and_the_order_of_it():
    belief, params = build(encoder="transformer")
    data = trajectories()
    before = belief.encode(params, data).belief.mean
    early = data.replace(reward=data.reward.at[0].add(1.0))
    swapped = data.replace(reward=data.reward.at[jnp.array([0, 1])].set(data.reward[jnp.array([1, 0])]))
    for other in (early, swapped):
        assert jnp.all(jnp.abs(before[-1] - belief.encode(params, other).belief.mean[-1]).max(-1) > 1e-5)


def test_the_transformer_attends_as_the_formula_says():
    """One head of one layer against NumPy: normalise, attend to what came before, add, MLP, add."""
    block = Block(width=4, heads=1)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(1, 5, 4)), jnp.float32)
    mask = jnp.tril(jnp.ones((5, 5), bool))[None, None]

    def run(module, x):
        return module.finish(x, *module.project(x), mask)

    params = scattered(jax.eval_shape(partial(block.init, method=run), jax.random.key(0), x))
    weights, x64 = to_numpy(params)["params"], np.asarray(x[0], float)

    def normal(x, w):
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
        return x * w["scale"] + w["bias"]

    query, key, value = np.split(
        reference.dense(weights["query_key_value"], normal(x64, weights["before_attention"])), 3, -1
    )
    score = np.exp(query @ key.T / 2.0) * np.tril(np.ones((5, 5)))  # 2 is the root of 4 units a head
    attended = x64 + reference.dense(weights["attended"], score / score.sum(-1, keepdims=True) @ value)
    expected = attended + reference.mlp(weights["mlp"], normal(attended, weights["before_mlp"]))
    np.testing.assert_allclose(block.apply(params, x, method=run)[0], expected, rtol=1e-4, atol=1e-5)
