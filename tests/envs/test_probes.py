"""Probe environments: their known values are those that the best policy earns in them."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dynamite_envs import exact, registry
from dynamite_envs.dlcmdp import Array, FiniteDLCMDP
from dynamite_envs.probes import ContextBandit, Memory

EPISODES = 8192
Policy = Callable[[FiniteDLCMDP, Array, Array, Array, Array], tuple[Array, Array]]


def make(name: str, **options: Any) -> FiniteDLCMDP:
    env = registry.make(name, **options)
    assert isinstance(env, FiniteDLCMDP)
    return env


def transition(env: FiniteDLCMDP) -> Array:
    return (1 - env.p) * jnp.eye(env.kernel.shape[0]) + env.p * env.kernel


def match_by_elimination(env: FiniteDLCMDP, belief: Array, action: Array, reward: Array, t: Array):
    """Act on the likeliest context; a reward tells whether the last action was the last context."""
    matched = jnp.arange(belief.shape[0]) == action
    likely = belief * jnp.where(reward > 0.5, matched, ~matched)
    belief = jnp.where(t == 0, belief, likely / likely.sum() @ transition(env))
    return belief, jnp.argmax(belief)


def remember(env: FiniteDLCMDP, belief: Array, action: Array, reward: Array, t: Array):
    """The first reward is the cue; carry it on by the session process."""
    belief = jnp.where(t == 1, (jnp.arange(2) == (reward > 0)).astype(jnp.float32), belief)
    belief = jnp.where(t == 0, belief, belief @ transition(env))
    return belief, jnp.argmax(belief)


def anything(env: FiniteDLCMDP, belief: Array, action: Array, reward: Array, t: Array):
    return belief, jnp.int32(t % 2)


@functools.partial(jax.jit, static_argnums=1)
def returns(env: FiniteDLCMDP, policy: Policy, keys: Array) -> Array:
    """Returns of a hand-written policy, one for each key."""

    def step(carry, t):
        state, belief, action, reward = carry
        belief, action = jax.vmap(policy, in_axes=(None, 0, 0, 0, None))(env, belief, action, reward, t)
        action = action.astype(jnp.int32)
        state = jax.vmap(env.step)(state, action)
        return (state, belief, action, state.reward), state.reward

    n = len(keys)
    start = (jax.vmap(env.reset)(keys), jnp.tile(env.initial, (n, 1)), jnp.zeros(n, jnp.int32), jnp.zeros(n))
    return jax.lax.scan(step, start, jnp.arange(env.horizon))[1].sum(0)


def assert_earns(env: FiniteDLCMDP, policy: Policy) -> None:
    earned = np.asarray(returns(env, policy, jax.random.split(jax.random.key(0), EPISODES)), float)
    margin = 3 * earned.std() / np.sqrt(EPISODES) + 1e-4  # the last for float32, where nothing is random
    assert abs(earned.mean() - exact.find(env).references()["bayes_optimal"]) < margin


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("probe_match", {}),
        ("probe_match", {"p": 0.3, "horizon": 7}),
        ("probe_match", {"p": 0.8}),
        ("probe_match", {"initial": [0.9, 0.1], "horizon": 5}),
        ("probe_match", {"p": 0.5, "kernel": [[0.3, 0.7], [0.7, 0.3]]}),
        ("probe_static", {}),
        ("probe_static", {"initial": [0.2, 0.8], "horizon": 3}),
        ("probe_pomdp", {}),
        ("probe_next_context", {}),
        ("probe_next_context", {"p": 0.6, "horizon": 9}),
    ],
)
def test_matching_the_likeliest_context_earns_the_reference(name, options):
    assert_earns(make(name, **options), match_by_elimination)


@pytest.mark.parametrize(
    "options", [{}, {"initial": [0.7, 0.3]}, {"p": 0.5, "horizon": 3, "kernel": [[0.9, 0.1], [0.4, 0.6]]}]
)
def test_remembering_the_cue_earns_the_reference(options):
    assert_earns(make("probe_memory", **options), remember)


def stay_while_it_pays(env: FiniteDLCMDP, belief: Array, action: Array, reward: Array, t: Array):
    """Look once; leave when the reward tells of context 0, or with the last step."""
    return belief, jnp.where(t == env.horizon - 1, 1, jnp.where(t == 0, 0, reward < 0.5))


@pytest.mark.parametrize("options", [{}, {"initial": [0.3, 0.7], "end": 0.2}, {"horizon": 4, "leave": 1.5, "end": 0.0}])
def test_leaving_as_soon_as_staying_does_not_pay_earns_the_reference(options):
    assert_earns(make("probe_termination", **options), stay_while_it_pays)


def test_the_reference_of_leaving_holds_where_contexts_come_back():
    """Where leaving pays nothing one stays for what may come; where it pays more than all steps one leaves at once."""
    env = make("probe_termination", p=0.5, kernel=[[0.0, 1.0], [1.0, 0.0]], leave=0.0, end=0.1)
    expected = 0.5 * sum(0.9**t for t in range(env.horizon))
    assert exact.find(env).references()["bayes_optimal"] == pytest.approx(expected, rel=1e-6)
    rich = make("probe_termination", leave=20.0)
    assert exact.find(rich).references()["bayes_optimal"] == 20.0


def test_leaving_pays_once_and_ends_the_episode():
    env = make("probe_termination", end=0.0, leave=2.5, horizon=4)
    state = env.reset(jax.random.key(0)).replace(context=jnp.array(1))
    steps = []
    for action in (0, 1, 0, 0):
        state = env.step(state, jnp.array(action))
        steps.append((float(state.reward), bool(state.terminated)))
    assert steps == [(1.0, False), (2.5, True), (0.0, True), (0.0, True)]


def test_episodes_end_by_chance_as_often_as_is_said():
    env = make("probe_termination", end=0.2)
    states = jax.vmap(env.reset)(jax.random.split(jax.random.key(0), EPISODES))
    for k in range(1, 4):
        states = jax.vmap(env.step, in_axes=(0, None))(states, jnp.array(0))
        assert np.mean(states.terminated) == pytest.approx(1.0 - 0.8**k, abs=0.02)


@pytest.mark.parametrize("options", [{}, {"initial": [0.1, 0.9]}, {"p": 0.3, "kernel": [[0.2, 0.8], [0.1, 0.9]]}])
def test_where_the_context_alone_pays_any_policy_earns_the_reference(options):
    assert_earns(make("probe_context_reward", **options), anything)


@pytest.mark.parametrize(
    ("name", "best"),
    [
        ("probe_context_reward", 10.0),
        ("probe_match", 0.5 + 0.9 * 19),
        ("probe_static", 19.5),
        ("probe_pomdp", 19.5),
        ("probe_next_context", 1 + 0.8 * 19),
        ("probe_memory", 1.0),
        ("probe_termination", 0.5 * sum(0.95**t for t in range(10)) + 0.5 * 0.95),
    ],
)
def test_the_reference_of_a_probe_is_what_it_says(name, best):
    assert exact.find(make(name)).references() == {"bayes_optimal": pytest.approx(best, abs=1e-5)}


@pytest.mark.parametrize("kernel", [[[0.9, 0.1], [0.5, 0.5]], [[0.0, 1.0], [0.5, 0.5]]])
def test_the_reference_holds_where_one_context_is_more_frequent(kernel):
    assert_earns(make("probe_match", p=0.8, kernel=kernel), match_by_elimination)


def test_a_single_step_of_memory_comes_before_any_cue():
    env = make("probe_memory", horizon=1)
    assert_earns(env, remember)


def test_the_bandit_pays_one_for_the_context_and_nothing_else():
    env = make("probe_next_context")
    for context in range(3):
        for action in range(3):
            _, reward, over = env.dynamics(jnp.ones(1), jnp.array(context), jnp.array(action), jax.random.key(0))
            assert float(reward) == (context == action)
            assert not over
    assert env.action_space.size == 3


def test_the_contexts_of_the_next_context_probe_follow_each_other():
    env = make("probe_next_context")
    assert np.array_equal(env.kernel, [[0, 1, 0], [0, 0, 1], [1, 0, 0]])
    assert np.array_equal(env.initial, [1, 0, 0])


def test_the_context_reward_probe_pays_for_context_one_whatever_is_done():
    env = make("probe_context_reward")
    for context in range(2):
        for action in range(2):
            _, reward, _ = env.dynamics(jnp.ones(1), jnp.array(context), jnp.array(action), jax.random.key(0))
            assert float(reward) == context


@pytest.mark.parametrize("context", [0, 1])
@pytest.mark.parametrize("action", [0, 1])
def test_memory_cues_first_and_pays_last(context, action):
    env = make("probe_memory", horizon=4)
    state = env.reset(jax.random.key(0)).replace(context=jnp.array(context))
    rewards, times = [], [float(state.obs[0])]
    for _ in range(4):
        state = env.step(state, jnp.array(action))
        rewards.append(float(state.reward))
        times.append(float(state.obs[0]))
    assert rewards == [2 * context - 1, 0, 0, float(action == context)]
    assert times == [0, 0.25, 0.5, 0.75, 1]


def test_probes_differ_only_in_what_they_probe():
    assert isinstance(make("probe_memory"), Memory)
    for name, p, horizon in [
        ("probe_context_reward", 0.1, 20),
        ("probe_match", 0.1, 20),
        ("probe_static", 0.0, 20),
        ("probe_pomdp", 1.0, 20),
        ("probe_next_context", 0.2, 20),
    ]:
        env = make(name)
        assert isinstance(env, ContextBandit)
        assert (float(env.p), env.horizon, env.match) == (np.float32(p), horizon, name != "probe_context_reward")
    assert (float(make("probe_memory").p), make("probe_memory").horizon) == (0.0, 10)
