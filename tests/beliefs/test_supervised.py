"""The belief that learns from the true context: its loss, its labels, and the posterior that it finds."""

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import numpy_elbo as reference
from conftest import assert_same, build, compiled, tiny_config
from dynamite_envs import registry
from dynamite_envs.dlcmdp import DLCMDP
from dynamite_envs.spaces import Box
from dynamite_envs.wrappers import ObserveContext
from dynamite_jax.beliefs.supervised import ContinuousBelief, FiniteBelief
from dynamite_jax.config import Config, VAEConfig
from dynamite_jax.data.rollout import play
from dynamite_jax.data.types import Trajectories
from dynamite_jax.methods import METHODS, of_setting
from dynamite_jax.runtime.program import Program
from episodes import (
    BATCH,
    HORIZON,
    NETWORK,
    VALID,
    behind_the_end,
    drift,
    scattered,
    statistics,
    to_numpy,
    trajectories,
)

MEAN, DEVIATION, NOISE = np.array([40.0, -3.0]), np.array([5.0, 0.1]), 0.5


class Thermometer(DLCMDP):
    """Each reward is the first of two numbers, measured with an error of half its deviation; the third is constant."""

    @property
    def observation_size(self):
        return 2

    @property
    def action_space(self):
        return Box(2)

    def init_physics(self, key):
        return jnp.zeros(2)

    def init_context(self, key):
        return jnp.asarray(MEAN) + jnp.asarray(DEVIATION) * jax.random.normal(key, (2,))

    def next_context(self, key, context):
        return self.init_context(key)

    def dynamics(self, physics, context, action, key):
        return physics, context[0] + NOISE * DEVIATION[0] * jax.random.normal(key), jnp.zeros((), bool)

    def observe(self, physics):
        return physics

    def context_features(self, context):
        return jnp.append(context, 7.0)


def thermometer() -> Thermometer:
    return Thermometer(p=0.0, horizon=HORIZON)


def belief_in(env) -> tuple[Any, dict, Trajectories]:
    """The belief in an environment, parameters with no zero in them, and its random episodes with labels."""
    belief = METHODS["task_inference"].build(Config(method="task_inference", network=NETWORK), env)
    rng = np.random.default_rng(3)
    if isinstance(belief, FiniteBelief):
        label = jnp.asarray(rng.integers(0, belief.contexts, (HORIZON, BATCH)), jnp.int32)
    else:
        label = jnp.asarray(rng.normal(size=(HORIZON, BATCH, 3)), jnp.float32)
    data = trajectories(discrete=not isinstance(env.action_space, Box)).replace(context=label)
    return belief, scattered(jax.eval_shape(belief.init, jax.random.key(0))), data


def loss(belief, params, data):
    return belief.loss(params, data, jax.random.key(0), VAEConfig())


# -- the loss -----------------------------------------------------------------------------------------------------


def slow_loss(belief, params, data):
    """Mean negative log-likelihood over the steps before the ends, one at a time."""
    head = to_numpy(params)["params"]["head"]
    hidden, label = np.asarray(belief.encode(params, data).hidden, float), np.asarray(data.context)
    losses = []
    for b in range(BATCH):
        for t in range(int(data.valid[:, b].sum())):
            if isinstance(belief, FiniteBelief):
                odds = np.exp(reference.dense(head, hidden[t, b]))
                losses.append(-np.log(odds[label[t, b]] / odds.sum()))
            else:
                mean, log_variance = reference.gaussian(head, hidden[t, b])
                variance = np.exp(log_variance)
                density = np.exp(-((label[t, b] - mean) ** 2) / (2 * variance)) / np.sqrt(2 * np.pi * variance)
                losses.append(-np.log(density).sum())
    return np.mean(losses)


@pytest.mark.parametrize("valid", [None, VALID], ids=["to_the_horizon", "ended"])
@pytest.mark.parametrize("env", [drift(), drift(discrete=True), thermometer()], ids=["box", "discrete", "continuous"])
def test_the_loss_is_the_negative_log_likelihood_of_the_context(env, valid):
    belief, params, data = belief_in(env)
    if valid is not None:
        data = data.replace(valid=jnp.asarray(valid))
    value, terms = loss(belief, params, data)
    np.testing.assert_allclose(value, slow_loss(belief, params, data), rtol=1e-4)
    assert terms == {"loss": value}


@pytest.mark.parametrize("env", [drift(), thermometer()], ids=["finite", "continuous"])
def test_what_lies_behind_an_end_changes_neither_loss_nor_gradient(env):
    belief, params, data = belief_in(env)
    data = data.replace(valid=jnp.asarray(VALID))
    value_and_gradient = jax.jit(jax.value_and_grad(lambda params, data: loss(belief, params, data)[0]))
    expected = value_and_gradient(params, data)
    for number in (0, 1000):
        mask = VALID.reshape(*VALID.shape, *[1] * (data.context.ndim - 2))
        label = jnp.where(mask, data.context, jnp.asarray(number, data.context.dtype))
        other = behind_the_end(data, float(number)).replace(context=label)
        for x, y in zip(jax.tree.leaves(value_and_gradient(params, other)), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(x, y, rtol=1e-6, atol=1e-6)


# -- what the policy gets -----------------------------------------------------------------------------------------


def test_features_are_log_probabilities_down_to_a_least_one():
    belief, params, data = belief_in(drift())
    states = belief.encode(params, data)
    features = np.asarray(belief.features(states))
    np.testing.assert_allclose(np.exp(features).sum(-1), 1.0, rtol=1e-5)
    head = to_numpy(params)["params"]["head"]
    odds = np.exp(reference.dense(head, np.asarray(states.hidden[2, 1], float)))
    np.testing.assert_allclose(np.exp(features[2, 1]), odds / odds.sum(), rtol=1e-4)
    certain = belief.distribution(jnp.array([[0.0, 50.0]]))
    np.testing.assert_array_equal(belief.features(states.replace(context=certain)), [[-10.0, 0.0]])


def test_features_of_continuous_contexts_are_mean_and_log_variance():
    belief, params, data = belief_in(thermometer())
    states = belief.encode(params, data)
    head = reference.gaussian(to_numpy(params)["params"]["head"], np.asarray(states.hidden[2, 1], float))
    np.testing.assert_allclose(belief.features(states)[2, 1], np.concatenate(head), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("env", [drift(), thermometer()], ids=["finite", "continuous"])
def test_nothing_is_known_before_the_first_observation(env):
    belief, _, _ = belief_in(env)
    expected = np.log([[0.5, 0.5]] * 4) if isinstance(belief, FiniteBelief) else np.zeros((4, 6))
    np.testing.assert_allclose(belief.features(belief.initial((4,))), expected, rtol=1e-6)


def test_it_has_the_memory_of_the_other_beliefs_and_claims_no_more():
    config = tiny_config("probe_match", "task_inference")
    belief = build(config)[0].agent.belief
    memory = belief.memory.network
    assert (memory.hidden, memory.embedding) == (config.network.hidden, config.network.embedding)
    assert belief.learns and not (belief.decodes or belief.detects or belief.end_to_end)


# -- labels -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("env", ["probe_next_context", "point_robot"])
def test_a_step_is_labelled_with_the_context_it_is_paid_under(env):
    program, states = build(tiny_config(env, "task_inference", env_options={"p": 0.5, "horizon": 12}))
    s = jax.tree.map(lambda x: x[0], states)
    rollout, environments, _ = play(program.agent, program.env, s.agent_params, environment=s.environment, key=s.key)
    np.testing.assert_array_equal(rollout.context, environments.context[:-1])
    assert np.unique(rollout.context).size > 2
    assert rollout.trajectories.context is rollout.context
    if env == "probe_next_context":
        np.testing.assert_array_equal(rollout.reward, rollout.action == rollout.context)


def test_continuous_contexts_are_labelled_as_they_are_observed_in_deviations_of_the_first_ones():
    env = thermometer()
    belief, _, _ = belief_in(env)
    assert isinstance(belief, ContinuousBelief)
    np.testing.assert_allclose(belief.mean, [*MEAN, 7.0], atol=0.3)
    np.testing.assert_allclose(belief.deviation, [*DEVIATION, 1.0], rtol=0.1)
    state = ObserveContext.of(env).reset(jax.random.key(1))
    label = np.asarray(belief.label(env, state.context))
    np.testing.assert_allclose(label * belief.deviation + belief.mean, state.obs[2:], rtol=1e-5)


@pytest.mark.parametrize("method", [method for method in of_setting("online") if method != "task_inference"])
def test_no_other_method_is_told_the_context(method):
    program, states = build(tiny_config("probe_match", method, vae={"buffer_episodes": 12}))
    s = jax.tree.map(lambda x: x[0], states)
    rollout, _, _ = jax.eval_shape(partial(play, program.agent), program.env, s.agent_params, s.environment, s.key)
    assert rollout.context is None and rollout.trajectories.context is None
    assert states.buffer is not None and states.buffer.context is None


def test_what_is_acted_on_is_the_belief_of_observations_actions_and_rewards_alone():
    """The features of a rollout are those that its evidence gives, with other labels too."""
    program, states = build(tiny_config("probe_match", "task_inference"))
    s, agent = jax.tree.map(lambda x: x[0], states), program.agent
    s = s.replace(normaliser=statistics(s.normaliser.mean.features.value.size, program.env.observation_size))
    rollout, _, _ = play(agent, program.env, s.agent_params, environment=s.environment, key=s.key)
    for label in (rollout.context, 1 - rollout.context, None):
        data = agent.evidence(s.normaliser, rollout.trajectories.replace(context=label))
        encoded = agent.features(rollout.observation[:-1], agent.belief.encode(s.belief_params, data))
        np.testing.assert_allclose(encoded, rollout.features[:-1], atol=1e-6)
    relabelled = s.environment.replace(context=1 - s.environment.context)
    insights = [
        agent.observe(s.agent_params, agent.init((8,)), environment.obs, environment.reward)[1]
        for environment in (s.environment, relabelled)
    ]
    assert_same(*insights)


@pytest.mark.parametrize("env", [registry.make("probe_match"), thermometer()], ids=["finite", "continuous"])
def test_the_buffer_holds_the_labels_of_past_episodes(env):
    program: Any = Program(tiny_config("probe_match", "task_inference", vae={"buffer_episodes": 12}), env)
    s = jax.tree.map(lambda x: x[0], program.init())
    rollout, _, _ = play(program.agent, env, s.agent_params, s.environment, key=jax.random.key(0))
    first, second = rollout.context, 1 - rollout.context
    for label in (first, second):
        labelled = rollout.replace(context=label)
        s, _ = program.algorithm.update_belief(env, labelled, program.algorithm.hyper[0], s, jax.random.key(3))
    assert s.buffer.context.dtype == first.dtype
    np.testing.assert_array_equal(s.buffer.context, np.concatenate([second, first], axis=1)[:, :12])


# -- what is learnt -----------------------------------------------------------------------------------------------


def test_the_belief_of_a_context_that_flips_becomes_the_posterior():
    """Every reward of `probe_match` reveals a context that the next step keeps with probability 0.9."""
    config = tiny_config(
        "probe_match", "task_inference", num_envs=32, chunk=100, steps=32 * 20 * 100, vae={"lr": 1e-2, "anneal": 0.5}
    )
    config = dataclasses.replace(config, seeds=1)
    program, states = build(config)
    states, metrics = compiled(config)(states)
    s = jax.tree.map(lambda x: x[0], jax.device_get(states))
    rollout, _, _ = play(program.agent, program.env, s.agent_params, environment=s.environment, key=jax.random.key(9))
    believed = np.exp(rollout.features[:-1, :, program.env.observation_size :])
    revealed = np.where(rollout.reward == 1.0, rollout.action, 1 - rollout.action)[:-1]
    posterior = np.full(believed.shape, 0.5)
    posterior[1:] = np.where(np.arange(2) == revealed[..., None], 0.9, 0.1)
    assert np.abs(believed - posterior).mean() < 0.03
    assert np.abs(believed - 0.5).mean() > 0.3
    assert float(metrics["vae/loss"].mean()) > 0.25  # on average over training; none can be below the entropy


def test_the_belief_of_a_measured_number_becomes_the_posterior():
    """After k measurements of a normal number its mean is the shrunk mean of these; the others stay as they were."""
    env, episodes, updates = thermometer(), 64, 600
    belief, _, _ = belief_in(env)

    def data(key) -> Trajectories:
        context_key, noise_key = jax.random.split(key)
        context = jax.vmap(env.init_context)(jax.random.split(context_key, episodes))
        measured = (context[:, 0] - MEAN[0]) / DEVIATION[0] + NOISE * jax.random.normal(noise_key, (HORIZON, episodes))
        labels = jax.vmap(lambda context: belief.label(env, context))(context)
        nothing = jnp.zeros((HORIZON + 1, episodes, 2))
        return Trajectories(
            observation=nothing,
            action=nothing[:-1],
            reward=measured,
            session=jnp.zeros((HORIZON, episodes), jnp.int32),
            valid=jnp.ones((HORIZON, episodes), bool),
            context=jnp.broadcast_to(labels, (HORIZON, *labels.shape)),
        )

    adam = optax.adam(optax.cosine_decay_schedule(1e-2, updates))

    def update(carry, key):
        params, state = carry
        gradient = jax.grad(lambda params: loss(belief, params, data(key))[0])(params)
        change, state = adam.update(gradient, state)
        return (optax.apply_updates(params, change), state), None

    params = belief.init(jax.random.key(0))
    keys = jax.random.split(jax.random.key(1), updates)
    (params, _), _ = jax.jit(lambda carry: jax.lax.scan(update, carry, keys))((params, adam.init(params)))
    fresh = data(jax.random.key(2))
    believed = belief.encode(params, fresh).context
    count = np.arange(HORIZON)[:, None]
    sums = np.concatenate([np.zeros((1, episodes)), np.cumsum(np.asarray(fresh.reward), 0)[:-1]])
    variance = 1 / (1 + count / NOISE**2)
    np.testing.assert_allclose(believed.mean[..., 0], variance * sums / NOISE**2, atol=0.35)
    assert np.abs(np.asarray(believed.mean[..., 0]) - variance * sums / NOISE**2).mean() < 0.1
    deviation = np.exp(0.5 * np.asarray(believed.log_variance))
    np.testing.assert_allclose(deviation[..., 0].mean(1), np.sqrt(variance)[:, 0], rtol=0.25)
    np.testing.assert_allclose(deviation[..., 1].mean(), 1.0, rtol=0.1)
    np.testing.assert_allclose(believed.mean[..., 2], 0.0, atol=0.1)


def test_an_environment_of_the_registry_has_the_kind_of_belief_of_its_contexts():
    for env, kind in (
        ("gridworld", FiniteBelief),
        ("point_robot", FiniteBelief),
        ("halfcheetah_wind", ContinuousBelief),
    ):
        belief = METHODS["task_inference"].build(Config(method="task_inference"), registry.make(env))
        assert isinstance(belief, kind)
    assert isinstance(belief, ContinuousBelief)
    np.testing.assert_allclose(belief.mean, [0.0], atol=1.0)
    squares = (35**3 - 25**3) / (3 * 10)  # of forces of 25 to 35 N to either side, on average
    np.testing.assert_allclose(belief.deviation, [np.sqrt(squares)], rtol=0.02)
