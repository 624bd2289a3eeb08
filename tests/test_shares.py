"""The environments of one agent, shared out over devices: as many updates, on the same data, as on one device."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import assert_same, build, compiled, tiny_config
from episodes import statistics

from dynamite_jax import config as configs
from dynamite_jax import normaliser, train_step
from dynamite_jax.checkpoint import Checkpoints
from dynamite_jax.methods import METHODS
from dynamite_jax.rollout import play

SHARED: Any = {"seeds": 1}  # on two devices


def halves(tree, axis):
    """Two equal parts of each leaf along an axis, stacked in front."""
    return jax.tree.map(lambda x: jnp.stack(jnp.split(x, 2, axis)), tree)


def state_and_rollout(config):
    program, states = build(config)
    state = jax.tree.map(lambda x: x[0], states)
    state = state.replace(normaliser=statistics(state.normaliser.mean.features.size, program.env.observation_size))
    rollout, _, _ = play(program.agent, program.env, state.acting, state.environment, state.belief, jax.random.key(1))
    return program, state, rollout


def in_shares(function, *arguments, in_axes):
    """What a function of a share makes of two of them."""
    return jax.vmap(function, in_axes, axis_name=train_step.SHARES)(*arguments)


def close(found, expected):
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6), found, expected)


@pytest.mark.parametrize("shuffle", ["episodes", "steps"])
def test_the_policy_learns_from_two_shares_what_it_learns_from_the_whole(shuffle):
    """One minibatch, so that no order matters; advantages of the two are far apart, and normalised together."""
    config = tiny_config("probe_match", ppo={"shuffle": shuffle, "minibatches": 1, "epochs": 2, "lr": 1e-2})
    program, state, rollout = state_and_rollout(config)
    scale = jnp.where(jnp.arange(config.num_envs) < config.num_envs // 2, 1.0, 9.0)
    samples, _ = train_step.policy_samples(program.agent, rollout, config.ppo, state)
    samples = samples.replace(advantage=scale + scale * samples.advantage)
    key = jax.random.key(2)

    def update(config, shared, rollout, samples):
        agent, env = program.agent, program.env
        after, _ = train_step.update_policy(config, agent, env, rollout, samples, config.ppo, state, key, shared)
        return after.policy_params

    share = partial(update, train_step.share(config, 2), True)
    expected = update(config, False, rollout, samples)
    first, second = (
        jax.tree.map(lambda x, i=i: x[i], in_shares(share, halves(rollout, 1), halves(samples, 1), in_axes=0))
        for i in range(2)
    )
    close(first, expected)
    assert_same(first, second)


def test_the_belief_learns_from_two_like_shares_what_it_learns_from_one_and_from_unlike_ones_in_step():
    config = tiny_config("probe_match", vae={"minibatches": 1, "decode_terms": 0})
    program, state, rollout = state_and_rollout(config)

    def update(config, shared, rollout):
        agent, env, key = program.agent, program.env, jax.random.key(2)
        after, _ = train_step.update_belief(config, agent, env, rollout, config.vae, state, key, shared)
        return after.belief_params

    share = partial(update, train_step.share(config, 2), True)
    part = jax.tree.map(lambda x: jnp.split(x, 2, 1)[0], rollout)
    alike = in_shares(share, jax.tree.map(lambda x: jnp.stack([x, x]), part), in_axes=0)
    close(jax.tree.map(lambda x: x[0], alike), update(train_step.share(config, 2), False, part))
    unlike = in_shares(share, halves(rollout, 1), in_axes=0)
    assert_same(*(jax.tree.map(lambda x, i=i: x[i], unlike) for i in range(2)))
    assert any(np.any(a != b) for a, b in zip(jax.tree.leaves(alike), jax.tree.leaves(unlike), strict=True))


def test_statistics_of_two_shares_are_those_of_the_whole():
    before, rng = statistics(3, 2), np.random.default_rng(0)
    seen = normaliser.Seen(*(jnp.asarray(rng.normal(2.0, 3.0, (5, 8, *x.shape)), jnp.float32) for x in before.mean))
    whole = normaliser.update(before, seen)
    update = partial(normaliser.update, axis=train_step.SHARES)
    parts = in_shares(update, before, halves(seen, 1), in_axes=(None, 0))
    for found, expected in ((parts.mean, whole.mean), (parts.std, whole.std), (parts.count, whole.count)):
        close(jax.tree.map(lambda x: x[1], found), expected)


@pytest.mark.parametrize("method", METHODS)
def test_a_shared_agent_stays_one_agent(method):
    """After a chunk both devices hold the same networks, which learnt from all the episodes that were played."""
    config = tiny_config("gridworld", method, **SHARED)
    program, states = build(config)
    assert (program.shares, program.devices) == (2, 2)
    after, metrics = compiled(config)(states)
    for leaf in jax.tree.leaves((after.acting, after.belief_optimiser, after.policy_optimiser, after.meta_updates)):
        first, second = (np.asarray(shard.data) for shard in leaf.addressable_shards)
        np.testing.assert_array_equal(first, second)
    played = config.chunk * config.num_envs * program.env.horizon
    assert int(after.normaliser.count.lo[0]) == played
    assert after.environment.obs.shape[:2] == (1, config.num_envs)
    assert all(np.isfinite(value).all() for value in metrics.values())


def test_shares_play_episodes_of_their_own():
    config = tiny_config("gridworld", **SHARED)
    after, _ = compiled(config)(build(config)[1])
    starts = np.asarray(after.environment.obs)[0]
    assert len(np.unique(starts, axis=0)) > config.num_envs // 2


@pytest.mark.parametrize("changes", [{}, {"vae": {"buffer_episodes": 12}}])
def test_a_shared_run_goes_on_bit_for_bit(changes, tmp_path):
    config = tiny_config("probe_match", **SHARED, **changes)
    step = compiled(config)
    half, _ = step(build(config)[1])
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, half)
    whole, _ = step(half)
    checkpoints.wait()
    _, restored, _ = checkpoints.restore(build(config)[1])
    checkpoints.close()
    assert_same(whole, step(restored)[0])


@pytest.mark.parametrize(
    "changes, can",
    [
        ({}, True),
        ({"num_envs": 9, "vae.minibatches": 1, "ppo.minibatches": 1}, False),
        ({"vae.minibatches": 8}, False),
        ({"vae.minibatches": 4}, False),
        ({"vae.trajectories": 6, "vae.minibatches": 2}, False),
        ({"vae.buffer_episodes": 9}, False),
        ({"ppo.minibatches": 8}, False),
        ({"ppo.minibatches": 8, "ppo.shuffle": "steps"}, True),
    ],
)
def test_what_can_not_be_dealt_out_equally_is_not_shared(changes, can):
    assert train_step.can_share(configs.changed(tiny_config("probe_match"), changes), 20, 2) == can


def test_a_share_is_a_run_of_as_many_updates():
    config = tiny_config("probe_match", steps=1000, vae={"trajectories": 4, "buffer_episodes": 12})
    share = train_step.share(config, 2)
    assert (share.num_envs, share.vae.trajectories, share.vae.buffer_episodes) == (4, 2, 6)
    assert share.meta_updates(20) == config.meta_updates(20)
    assert train_step.share(config, 1) == config
