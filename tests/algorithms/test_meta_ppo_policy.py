"""What a meta-update teaches the policy: units of the critic, minibatches, schedules."""

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct

from conftest import assert_same, build, compiled, tiny_config
from dynamite_envs.probes import ContextBandit
from dynamite_jax.agents import running_statistics
from dynamite_jax.algorithms import ppo
from dynamite_jax.algorithms.meta_ppo import discount
from dynamite_jax.config import PPOConfig
from rollouts import moments, play_with_statistics


@pytest.mark.parametrize("in_deviations", [True, False])
def test_the_critic_learns_returns_in_its_unit(in_deviations):
    """Advantages are in units of reward whatever the critic's unit is; its targets are in that which it has next."""
    _, program, state, rollout = play_with_statistics(normalise_returns=in_deviations)
    mean, deviation = (x.returns for x in moments(state)) if in_deviations else (0.0, 1.0)
    value = np.asarray(rollout.value) * deviation + mean
    hyper = program.algorithm.hyper[1]
    advantage = ppo.advantages(rollout.reward, rollout.terminated, jnp.asarray(value), hyper.gamma, hyper.gae_lambda)
    after, samples = program.algorithm.policy_samples(rollout, hyper, state)
    np.testing.assert_allclose(samples.advantage, advantage, rtol=1e-5, atol=1e-6)
    returns = running_statistics.merge(state.normaliser, rollout.valid, returns=jnp.asarray(value[:-1] + advantage))
    moved = running_statistics.moments(after.normaliser, "returns")
    np.testing.assert_allclose(moved, running_statistics.moments(returns, "returns"), rtol=1e-5)
    assert abs(moved[1] - running_statistics.moments(state.normaliser, "returns")[1]) > 1e-3
    mean, deviation = moved if in_deviations else (0.0, 1.0)
    np.testing.assert_allclose(samples.target * deviation + mean, value[:-1] + advantage, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(samples.value, rollout.value[:-1])


def test_rewards_in_another_currency_train_the_same_critic():
    """Once returns are known, a hundredfold reward changes no target in deviations."""
    _, program, state, rollout = play_with_statistics()
    rich = running_statistics.with_moments(*(x._replace(returns=100.0 * x.returns) for x in moments(state)))
    rich = state.replace(normaliser=rich.replace(count=state.normaliser.count))
    hyper = program.algorithm.hyper[1]
    targets = [
        program.algorithm.policy_samples(rollout.replace(reward=scale * rollout.reward), hyper, s)[1]
        for scale, s in ((1.0, state), (100.0, rich))
    ]
    np.testing.assert_allclose(targets[0].target, targets[1].target, rtol=1e-4, atol=1e-5)
    assert np.abs(targets[1].advantage).max() > 50 * np.abs(targets[0].advantage).max()


class Late(ContextBandit):
    """A bandit whose payment is a number that can be changed."""

    pays: Any = struct.field(kw_only=True, default=0.0)

    def dynamics(self, physics, context, action, key):
        physics, reward, over = super().dynamics(physics, context, action, key)
        return physics, self.pays * reward, over


def train_until_first_reward(least):
    """Probability of the action that pays before and after its first payment, and the error of the critic there.

    It is preceded by 20 updates without any, which count as 10^9 steps.
    """
    rates = {"lr": 1e-2, "gamma": 0.0, "minibatches": 1, "epochs": 4, "min_return_deviation": least}
    config = tiny_config("probe_static", "markov", num_envs=32, steps=10**7, ppo=rates)
    program, states = build(config)
    fields = {field.name: getattr(program.env, field.name) for field in dataclasses.fields(program.env)}
    update = jax.jit(lambda env, state: program.algorithm.update(env, program.algorithm.hyper, state))

    def env(pays):
        return Late(**{**fields, "initial": jnp.array([1.0, 0.0]), "pays": jnp.float32(pays)})

    def probability(state):
        features = program.agent.normalise(state.normaliser, "features", jnp.ones((1, 1)))
        return float(jax.nn.softmax(program.agent.policy(state.policy_params, features)[0])[0, 0])

    state = jax.tree.map(lambda x: x[0], states)
    for _ in range(20):
        state, _ = update(env(0.0), state)
    long_ago = state.normaliser.replace(count=running_statistics.Sum.of(jnp.float32(1e9)))
    after, metrics = update(env(1.0), state.replace(normaliser=long_ago))
    return probability(state), probability(after), float(metrics["ppo/value_loss"])


def test_the_first_reward_after_many_updates_without_any_is_learnt_from():
    before, after, error = train_until_first_reward(0.1)
    assert error < 0.5 * (1.0 / 0.1) ** 2
    assert after > before + 0.01
    assert train_until_first_reward(1e-6)[2] > 1e5  # what the bound is for


@pytest.mark.parametrize("method", ["dynamite", "rl2", "markov"])
def test_the_policy_waits_for_a_belief_that_learns_by_itself(method):
    config, program, state, rollout = play_with_statistics(method, lr=1e-2, delay=0.5)
    total = config.meta_updates(program.env.horizon)
    update = jax.jit(partial(program.algorithm.update_policy, program.env))
    for count in (0, total // 2 - 1, total // 2):
        before = state.replace(meta_updates=jnp.asarray(count))
        _, samples = program.algorithm.policy_samples(rollout, program.algorithm.hyper[1], before)
        after, _ = update(rollout, samples, program.algorithm.hyper[1], before, jax.random.key(4))
        moved = not np.array_equal(*(jax.tree.leaves(x.policy_params)[-1] for x in (before, after)))
        assert moved == (method != "dynamite" or count >= total // 2)


@pytest.mark.parametrize("shuffle", ["episodes", "steps"])
def test_every_pass_deals_out_each_episode_or_each_step_once(shuffle, monkeypatch):
    """Steps are marked by their advantages, and the loss reports the marks of its minibatch."""
    config, program, state, rollout = play_with_statistics("markov", shuffle=shuffle, minibatches=4, epochs=3)
    _, samples = program.algorithm.policy_samples(rollout, program.algorithm.hyper[1], state)
    marks = np.arange(rollout.reward.size, dtype=np.float32).reshape(rollout.reward.shape)  # [H, E]
    monkeypatch.setattr(ppo, "loss", lambda policy, value, batch, **_: (value.sum(), {"marks": batch.advantage}))
    monkeypatch.setattr(jnp, "mean", lambda x: x)  # of the minibatches' terms
    marked = samples.replace(advantage=jnp.asarray(marks))
    arguments = (program.env, rollout, marked, program.algorithm.hyper[1], state, jax.random.key(4))
    minibatches = np.asarray(program.algorithm.update_policy(*arguments)[1]["marks"])  # [epochs, minibatches, steps]
    assert minibatches.shape == (3, 4, marks.size // 4)
    for epoch in minibatches:
        np.testing.assert_array_equal(np.sort(epoch.ravel()), marks.ravel())
    intact = [
        set(column) <= set(minibatch) for column in marks.T for minibatch in minibatches[0] if column[0] in minibatch
    ]
    assert all(intact) == (shuffle == "episodes") and len(intact) == marks.shape[1]
    assert not np.array_equal(minibatches[0], minibatches[1])


@pytest.mark.parametrize(("anneal", "share"), [(0.0, 1.0), (0.5, 0.5), (1.0, 0.25)])
def test_the_weight_of_entropy_falls_over_the_last_part_of_training(anneal, share, monkeypatch):
    """Three quarters of training are over; the loss reports the weight that it is given."""
    config, program, state, rollout = play_with_statistics("markov", anneal=anneal, entropy=0.4)
    monkeypatch.setattr(ppo, "loss", lambda policy, value, batch, *, hyper, **_: (value.sum(), {"w": hyper.entropy}))
    state = state.replace(meta_updates=0.75 * config.meta_updates(program.env.horizon))
    _, samples = program.algorithm.policy_samples(rollout, program.algorithm.hyper[1], state)
    arguments = (program.env, rollout, samples, program.algorithm.hyper[1], state, jax.random.key(4))
    assert float(program.algorithm.update_policy(*arguments)[1]["w"]) == pytest.approx(0.4 * share, rel=1e-5)


@pytest.mark.parametrize(("rise", "expected"), [(0.0, 0.9), (0.4, 0.65), (0.5, 0.6), (0.2, 0.9), (0.1, 0.9)])
def test_the_discount_rises_over_the_first_part_of_training(rise, expected):
    """A fifth of training is over."""
    hyper = PPOConfig(gamma=0.9, gamma_start=0.4, gamma_rise=rise)
    assert float(discount(jnp.asarray(0.2), hyper)) == pytest.approx(expected, rel=1e-6)
    assert float(discount(jnp.asarray(0.0), hyper)) == pytest.approx(0.4 if rise else 0.9, rel=1e-6)


@pytest.mark.parametrize(("done", "gamma"), [(0, 0.3), (10, 0.6), (20, 0.9), (30, 0.9)])
def test_a_meta_update_discounts_by_what_has_risen(done, gamma):
    """It ends as one with the discount of this moment fixed does; 40 are all of training."""
    ended = []
    for changes in ({"gamma": 0.9, "gamma_start": 0.3, "gamma_rise": 0.5}, {"gamma": gamma}):
        config = tiny_config("probe_match", "markov", chunk=1, ppo=changes)
        program, _ = build(config)
        config = dataclasses.replace(config, steps=40 * config.num_envs * program.env.horizon)
        _, states = build(config)
        states = states.replace(meta_updates=jnp.full_like(states.meta_updates, done))
        ended.append(jax.device_get(compiled(config)(states)[0].policy_params))
    for risen, fixed in zip(*map(jax.tree.leaves, ended), strict=True):
        np.testing.assert_allclose(risen, fixed, rtol=1e-4, atol=1e-6)


def test_learning_rate_and_entropy_fall_to_zero_at_the_end():
    """With `anneal=1` the last meta-update's step size is nearly nothing: parameters hardly move."""
    config = tiny_config("probe_match", ppo={"anneal": 1.0})
    program, states = build(config)
    step = compiled(config)
    total = config.meta_updates(program.env.horizon)
    late = states.replace(meta_updates=jnp.full_like(states.meta_updates, total))
    before = jax.device_get(late.policy_params)
    after, _ = step(late)
    assert_same(before, jax.device_get(after.policy_params))
