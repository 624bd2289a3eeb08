"""What a meta-update teaches the belief: units, buffer, learning rate, the average that acts."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from conftest import assert_same, build, compiled, tiny_config
from rollouts import moments, play_episode, play_with_statistics


def test_the_belief_learns_from_deviations():
    """What it learns from an episode in units is what it learns from the same in deviations."""
    config, program, state, rollout = play_with_statistics()
    mean, deviation = moments(state)
    in_deviations = rollout.replace(
        observation=jnp.clip((rollout.observation - mean.observation) / deviation.observation, -5, 5),
        reward=jnp.clip((rollout.reward - mean.reward) / deviation.reward, -5, 5),
    )
    trivial = state.replace(normaliser=jax.tree.map(lambda x: x[0], build(config)[1]).normaliser)
    update = partial(program.algorithm.update_belief, program.env)
    updated, losses = update(rollout, program.algorithm.hyper[0], state, jax.random.key(2))
    expected, expected_losses = update(in_deviations, program.algorithm.hyper[0], trivial, jax.random.key(2))
    assert_same(updated.belief_params, expected.belief_params)
    assert_same(losses, expected_losses)


def test_rewards_are_expected_in_units():
    config, program, state, rollout = play_with_statistics()
    agent, params, key = program.agent, state.agent_params, jax.random.key(3)
    summary = jax.tree.map(lambda x: x[0], agent.belief.summary(agent.belief.initial((config.num_envs,))))
    mean, deviation = moments(state)
    steps = (rollout.observation[0], rollout.action[0], rollout.observation[1])
    scaled = [(x - mean.observation) / deviation.observation if x.ndim == 2 else x for x in steps]
    in_deviations = agent.belief.decode_reward(params.belief_params, summary, key, *scaled)
    reward = agent.expected_reward(params, summary, key, *steps)
    np.testing.assert_allclose(reward, in_deviations * deviation.reward + mean.reward, rtol=1e-5)


def test_the_buffer_keeps_the_newest_episodes_first():
    config = tiny_config("probe_match", vae={"buffer_episodes": 12})
    program, states = build(config)
    state = jax.tree.map(lambda x: x[0], states)
    rollouts = []
    for _ in range(2):
        rollout = play_episode(program, state, jax.random.key(len(rollouts)))
        state, _ = program.algorithm.update_belief(
            program.env, rollout, program.algorithm.hyper[0], state, jax.random.key(3)
        )
        state = state.replace(meta_updates=state.meta_updates + 1)
        rollouts.append(rollout)
    expected = np.concatenate([rollouts[1].reward, rollouts[0].reward], axis=1)[:, :12]
    assert state.buffer is not None
    np.testing.assert_array_equal(np.asarray(state.buffer.reward), expected)


def test_the_buffer_is_drawn_from_alike_however_many_episodes_there_were():
    """At 2^28 meta-updates of 8 episodes a count of them would no longer fit into 32 bits."""
    config = tiny_config("probe_match", vae={"buffer_episodes": 12}, steps=10**11)
    program, states = build(config)
    state = jax.tree.map(lambda x: x[0], states)
    rollout = play_episode(program, state, jax.random.key(0))
    update = jax.jit(partial(program.algorithm.update_belief, program.env))
    full = update(rollout, program.algorithm.hyper[0], state, jax.random.key(1))[0]
    after = [
        update(rollout, program.algorithm.hyper[0], full.replace(meta_updates=jnp.int32(count)), jax.random.key(2))
        for count in (1, 2**28 + 5)
    ]
    assert_same(after[0][0].belief_params, after[1][0].belief_params)
    assert_same(after[0][1], after[1][1])


def test_a_buffer_that_is_not_full_gives_only_what_it_holds():
    """Eight episodes in room for twelve: not one of the 64 drawn is of the others, which have no valid step."""
    config = tiny_config("probe_match", vae={"buffer_episodes": 12, "trajectories": 64})
    program, states = build(config)
    state = jax.tree.map(lambda x: x[0], states)
    rollout = play_episode(program, state, jax.random.key(0))
    original = type(program.agent.belief).loss

    def loss(self, params, data, key, hyper):
        value, terms = original(self, params, data, key, hyper)
        return value, {**terms, "drawn": data.valid[0].mean()}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(program.agent.belief), "loss", loss)
        losses = program.algorithm.update_belief(
            program.env, rollout, program.algorithm.hyper[0], state, jax.random.key(1)
        )[1]
    assert float(losses["drawn"]) == 1.0


@pytest.mark.parametrize("progress, share", [(0.25, 1.0), (0.75, 0.5), (0.875, 0.25)])
def test_the_rate_of_the_belief_falls_over_the_last_part_of_training(progress, share):
    sizes: Any = {"steps": 8 * 20 * 8, "chunk": 1}
    config = tiny_config("probe_match", vae={"anneal": 0.5}, **sizes)
    fixed = tiny_config("probe_match", vae={"lr": config.vae.lr * share, "anneal": 0.0}, **sizes)
    program, states = build(config)
    total = config.meta_updates(program.env.horizon)
    assert total == 8
    late = states.replace(meta_updates=jnp.full_like(states.meta_updates, round(progress * total)))
    # Adam's first step is as long as the rate, so that the same step is made where the rates agree.
    expected = jax.device_get(compiled(fixed)(jax.tree.map(jnp.copy, late))[0].belief_params)
    annealed = jax.device_get(compiled(config)(late)[0].belief_params)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6), annealed, expected)


def test_the_average_of_the_weights_acts():
    """After k meta-updates: (1 - rate)^k of the first weights, and rate (1 - rate)^(k - i) of those after the i-th."""
    config = tiny_config("probe_match", vae={"average_rate": 0.25})
    program, states = build(config)
    state = jax.tree.map(lambda x: x[0], states)
    rollout = play_episode(program, state, jax.random.key(0))
    expected = jax.tree.map(lambda x: 0.75**3 * x, state.belief_params)
    for number in range(3):
        state, _ = program.algorithm.update_belief(
            program.env, rollout, program.algorithm.hyper[0], state, jax.random.key(number)
        )
        share = 0.25 * 0.75 ** (2 - number)
        expected = jax.tree.map(lambda total, new, share=share: total + share * new, expected, state.belief_learner)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6), state.belief_params, expected)
    assert state.agent_params.belief_params is state.belief_params


def test_what_learns_does_not_depend_on_what_acts():
    """A step of the belief's optimiser starts from the weights that learn, not from their average."""
    learners = []
    for rate in (1.0, 0.01):
        config = tiny_config("probe_match", vae={"average_rate": rate})
        program, states = build(config)
        state = jax.tree.map(lambda x: x[0], states)
        rollout = play_episode(program, state, jax.random.key(0))
        for number in range(2):
            state, _ = program.algorithm.update_belief(
                program.env, rollout, program.algorithm.hyper[0], state, jax.random.key(number)
            )
        learners.append(state.belief_learner)
        if rate == 1.0:
            assert_same(state.belief_params, state.belief_learner)
    assert_same(*learners)
