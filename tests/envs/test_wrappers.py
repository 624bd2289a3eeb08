"""Environments made of environments: the same episodes, more to observe."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from conftest import assert_same, tiny_config
from dynamite_envs import exact, registry
from dynamite_envs.dlcmdp import DLCMDP, State
from dynamite_envs.gridworld.exact import GridworldSolution
from dynamite_envs.spaces import Discrete
from dynamite_envs.wrappers import ObserveContext, ObserveFeedback
from dynamite_jax.methods import of_setting
from dynamite_jax.runtime.program import Program

NAMES = ("gridworld", "point_robot", "probe_next_context", "reacher")
EPISODES = 16


@jax.jit
def states(env: DLCMDP, key: jax.Array) -> State:
    """States before the first and after every step of random actions, [H + 1, N]."""
    start = jax.vmap(env.reset)(jax.random.split(key, EPISODES))

    def step(state: State, key: jax.Array) -> tuple[State, State]:
        shape = env.action_space.zeros((EPISODES,)).shape
        action = jax.random.randint(key, shape, 0, env.action_space.size)
        after = jax.vmap(env.step)(state, action.astype(env.action_space.zeros(()).dtype))
        return after, after

    rest = jax.lax.scan(step, start, jax.random.split(jax.random.fold_in(key, 1), env.horizon))[1]
    return jax.tree.map(lambda a, b: jnp.concatenate([a[None], b]), start, rest)


@pytest.mark.parametrize("reset_on_switch", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_an_observed_context_is_that_of_the_next_step_and_changes_nothing_else(name, reset_on_switch):
    env = registry.make(name, p=0.4, horizon=8, reset_on_switch=reset_on_switch)
    wrapped = ObserveContext.of(env)
    plain, observed = states(env, jax.random.key(0)), states(wrapped, jax.random.key(0))
    features = jax.vmap(jax.vmap(env.context_features))(plain.context)
    assert wrapped.observation_size == env.observation_size + features.shape[-1] == observed.obs.shape[-1]
    # Two programs, whose sums the compiler orders as it likes.
    np.testing.assert_allclose(observed.obs, jnp.concatenate([plain.obs, features], -1), atol=1e-6)

    def labels(state):
        return (state.context, state.session, state.switched, state.latent_key, state.key)

    assert_same(labels(observed), labels(plain))
    for a, b in zip(jax.tree.leaves(observed.physics), jax.tree.leaves(plain.physics), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
    np.testing.assert_allclose(observed.reward, plain.reward, atol=1e-5)
    assert 0.2 < np.asarray(plain.switched[1:]).mean() < 0.6


def test_acting_on_the_context_that_is_shown_is_always_right():
    """Which the context of the step just made would not be, where it changes after every step."""
    env = ObserveContext.of(registry.make("probe_next_context", p=1.0, horizon=6))

    def step(state: State, _: None) -> tuple[State, jax.Array]:
        after = env.step(state, jnp.argmax(state.obs[1:]))
        return after, after.reward

    rewards = jax.lax.scan(step, env.reset(jax.random.key(0)), length=6)[1]
    np.testing.assert_array_equal(rewards, np.ones(6))


def test_a_wrapped_environment_keeps_its_numbers_and_its_exact_solution():
    env = registry.make("gridworld", p=0.2, horizon=9)
    wrapped = ObserveContext.of(env)
    assert (float(wrapped.p), wrapped.horizon, wrapped.action_space) == (np.float32(0.2), 9, env.action_space)
    assert wrapped.unwrapped is env and env.unwrapped is env
    solution = exact.find(wrapped)
    assert isinstance(solution, GridworldSolution) and solution.env is env


def test_a_mujoco_task_keeps_its_outcomes_and_says_whether_to_decode_states():
    itch, wind = (ObserveContext.of(registry.make(name)) for name in ("scratch_itch", "halfcheetah_wind"))
    assert wind.decode_state and not itch.decode_state
    physics = jax.eval_shape(itch.reset, jax.random.key(0)).physics
    assert jax.eval_shape(itch.outcomes, physics).keys() == {"scratches", "success"}


@pytest.mark.parametrize("method", of_setting("online"))
def test_the_oracle_alone_observes_the_context(method):
    program = Program(tiny_config("point_robot", method), registry.make("point_robot"))
    size = program.init().environment.obs.shape[-1]
    assert size == program.env.observation_size == (4 if method == "oracle" else 2)


@pytest.mark.parametrize("name", NAMES)
def test_observed_feedback_is_that_of_the_last_step_and_changes_nothing_else(name):
    """The action as it was executed, and what it paid; both are 0 before the first step."""
    env = registry.make(name, p=0.4, horizon=8)
    wrapped, space = ObserveFeedback.of(env), env.action_space
    plain, observed = (jax.jit(e.reset)(jax.random.key(0)) for e in (env, wrapped))
    last = np.zeros(space.size + 1)
    for number in range(8):
        assert observed.obs.shape == (wrapped.observation_size,)
        np.testing.assert_allclose(observed.obs, np.concatenate([plain.obs, last]), atol=1e-5)
        assert_same((observed.context, observed.session, observed.key), (plain.context, plain.session, plain.key))
        np.testing.assert_allclose(observed.reward, plain.reward, atol=1e-5)
        if isinstance(space, Discrete):
            action = jnp.int32(number % space.n)
            executed = np.eye(space.n)[action]
        else:
            action = jnp.linspace(-1.5, 0.3 * number, space.size)
            executed = np.clip(action, -1.0, 1.0)
        plain, observed = (jax.jit(e.step)(s, action) for e, s in ((env, plain), (wrapped, observed)))
        last = np.append(executed, plain.reward)
    assert observed.truncated


def test_context_and_feedback_are_observed_together_in_the_order_of_the_wrappers():
    """And numbers that a wrapped environment is given afterwards count."""
    env = registry.make("gridworld", p=0.0, horizon=5)
    feedback, context = ObserveFeedback.of(ObserveContext.of(env)), ObserveContext.of(ObserveFeedback.of(env))
    for wrapped, told, paid in ((feedback, slice(6, 8), slice(8, 14)), (context, slice(12, 14), slice(6, 12))):
        wrapped = wrapped.replace(p=jnp.float32(1.0))
        state = wrapped.step(wrapped.reset(jax.random.key(0)), jnp.int32(3))
        assert state.switched and state.obs.shape == (wrapped.observation_size,) == (14,)
        np.testing.assert_array_equal(state.obs[told], env.context_features(state.context))
        np.testing.assert_array_equal(state.obs[paid], np.append(np.eye(5)[3], state.reward))
