"""Environments of gymnax as ours, and ours as gymnax's."""

import itertools
import re
from pathlib import Path
from typing import Any

import gymnax
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from gymnax.environments import spaces
from gymnax.wrappers import purerl

import dynamite_jax as dj
from dynamite_envs import pictures, registry
from dynamite_envs.errors import UserError
from dynamite_envs.gym.env import GymnasiumEnv
from dynamite_envs.gymnax import GymnaxEnv, from_gymnax
from dynamite_envs.registry import MAKERS


def side(key):
    return jax.random.rademacher(key, dtype=jnp.float32)


def other_side(key, context):
    return -context


def paid(before, after, action, reward, side):
    return reward + side * (after.x - before.x)


def cart(**changes) -> Any:
    return from_gymnax(
        *gymnax.make("CartPole-v1"), **{"init_context": side, "next_context": other_side, "reward": paid, **changes}
    )


def test_a_body_of_gymnax_is_paid_by_the_context_until_its_task_ends():
    env = cart(p=0.3, horizon=400)
    assert (env.observation_size, env.action_space.size, env.decode_state) == (4, 2, False)
    body, params = gymnax.make("CartPole-v1")
    state, step = env.reset(jax.random.key(1)), jax.jit(env.step)
    switches = 0
    while not state.terminated:
        before = state
        state = step(state, 1)
        theirs = body.step_env(jax.random.key(0), before.physics.state, 1, params)
        np.testing.assert_allclose(state.obs, theirs[0], rtol=1e-6)
        assert bool(state.terminated) == bool(theirs[3])
        expected = paid(before.physics.state, theirs[1], 1, theirs[2], before.context)
        assert float(state.reward) == pytest.approx(float(expected), rel=1e-6)
        assert float(state.context) == (-1 if state.switched else 1) * float(before.context)
        switches += int(state.switched)
    assert 5 < int(state.step) < 30 and switches > 0
    assert float(step(state, 1).reward) == 0.0


def test_the_limit_of_steps_is_ours():
    body, params = gymnax.make("CartPole-v1")
    env = cart(horizon=9)
    env = env.replace(defaults=params.replace(max_steps_in_episode=3))
    state = env.reset(jax.random.key(0))
    for t in range(9):
        state = env.step(state, t % 2)
        assert not state.terminated and bool(state.truncated) == (t == 8)


def test_the_context_can_be_a_parameter():
    """Of a pendulum, whose torque lies between -2 and 2: ours between -1 and 1 is scaled to that."""
    body, params = gymnax.make("Pendulum-v1")

    def heavier(params, gravity):
        return params.replace(g=gravity)

    env = from_gymnax(body, params, init_context=side, next_context=other_side, params=heavier)
    assert env.decode_state and env.action_space.size == 1
    state = env.reset(jax.random.key(0))
    for gravity in (1.0, 10.0):
        for action in (-1.0, 0.5):
            ours = env.step(state.replace(context=jnp.float32(gravity)), jnp.array([action]))
            torque = jnp.array([2.0 * action])
            theirs = body.step_env(jax.random.key(0), state.physics.state, torque, params.replace(g=gravity))
            np.testing.assert_allclose(ours.obs, jnp.ravel(theirs[0]), rtol=1e-5)
            assert float(ours.reward) == pytest.approx(float(jnp.ravel(theirs[2])[0]), rel=1e-5)


def test_what_the_docs_show_trains():
    page = (Path(__file__).parents[2] / "docs" / "simulators.md").read_text()
    blocks = re.findall(r"^```python\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    (code,) = (code for code in blocks if "gymnax.make" in code)
    (other,) = (code for code in blocks if "GymnaxEnv" in code)
    exec(other, {})
    exec(code, {})
    changes: Any = {"vae.minibatches": 2, "ppo.minibatches": 2, "env_options": {"horizon": 20}}
    run = dj.train(dj.preset("cart_side", seeds=1, num_envs=4, chunk=2, steps=320, eval_episodes=8, **changes))
    assert 0.0 < dj.evaluate(run).returns[0] < 40.0
    del MAKERS["cart_side"]


def test_what_has_no_picture_steps_in_gymnasium():
    """And time of its own has no say in how fast pictures come."""
    env = GymnasiumEnv(cart(horizon=3))
    assert env.metadata["render_fps"] == pictures.FPS
    env.reset(seed=0)
    assert [env.step(1)[3] for _ in range(3)] == [False, False, True]


def test_options_go_with_a_name():
    with pytest.raises(UserError, match="horizon is 3, and env is GymnaxDLCMDP, already made; options go with a name"):
        GymnaxEnv(cart(), horizon=3)


def test_a_context_that_changes_nothing_is_refused():
    with pytest.raises(UserError, match="reward and params are None; one of them must depend on the context"):
        cart(reward=None)


@pytest.mark.parametrize("name", ["gridworld", "probe_termination", "point_robot"])
def test_one_of_ours_steps_in_gymnax_as_it_does_here(name):
    """Until the end of the task or the horizon, where gymnax begins the next episode with the key of the step."""
    ours, theirs = registry.make(name, horizon=8, p=0.4), GymnaxEnv(name, labels=True, horizon=8, p=0.4)
    params = theirs.default_params
    state = ours.reset(jax.random.key(3))
    observation, there = theirs.reset(jax.random.key(3), params)
    np.testing.assert_array_equal(observation, state.obs)
    ends = 0
    for key in jax.random.split(jax.random.key(4), 12):
        action = theirs.action_space().sample(key)
        state = ours.step(state, action)
        observation, there, reward, terminated, truncated, info = theirs.step(key, there, action, params)
        assert (bool(terminated), bool(truncated)) == (bool(state.terminated), bool(state.truncated))
        assert float(reward) == pytest.approx(float(state.reward), abs=1e-6)
        np.testing.assert_allclose(info["final_observation"], state.obs, atol=1e-6)
        np.testing.assert_allclose(info["context"], ours.context_features(state.context), atol=1e-6)
        assert (int(info["session"]), bool(info["switched"])) == (int(state.session), bool(state.switched))
        if state.terminated or state.truncated:
            ends += 1
            state = ours.reset(jax.random.split(key)[1])
        np.testing.assert_allclose(observation, state.obs, atol=1e-6)
    assert ends >= 1


def test_gymnax_is_told_sizes_and_takes_other_numbers_as_parameters():
    grid, robot = GymnaxEnv("gridworld"), GymnaxEnv("point_robot")
    assert (grid.name, grid.num_actions) == ("Gridworld", 5)
    assert isinstance(one := grid.action_space(), spaces.Discrete) and one.n == 5
    assert isinstance(box := robot.action_space(robot.default_params), spaces.Box) and box.shape == (2,)
    assert (float(box.low), float(box.high), robot.num_actions) == (-1.0, 1.0, 2)
    assert grid.observation_space(grid.default_params).shape == (6,)
    numbers = {"p": 1.0, "step_reward": -7.0, "active_reward": 3.0, "inactive_reward": 2.0}
    params: Any = grid.default_params.replace(**{name: jnp.float32(value) for name, value in numbers.items()})
    _, state = grid.reset(jax.random.key(0), params)
    rewards = set()
    for key in jax.random.split(jax.random.key(1), 5):
        _, state, reward, *_, info = grid.step(key, state, 0, params)
        rewards.add(float(reward))
        assert "context" not in info and int(state.session) == int(state.step)
    assert rewards <= {-7.0, 3.0, 2.0}


def test_feedback_is_observed_in_gymnax_where_it_is_asked_for():
    env = GymnaxEnv("gridworld", feedback=True)
    observation, state = env.reset(jax.random.key(0), env.default_params)
    assert observation.shape == env.observation_space().shape == (12,) and not observation[6:].any()
    params = env.default_params.replace(
        p=jnp.float32(1.0), **dict.fromkeys(("step_reward", "active_reward", "inactive_reward"), jnp.float32(-7.0))
    )
    observation, state, reward, *_ = env.step(jax.random.key(1), state, 3, params)
    np.testing.assert_array_equal(observation[6:], [*np.eye(5)[3], reward])
    assert float(reward) == -7.0 and int(state.session) == 1


def test_a_trainer_in_the_manner_of_purejaxrl_learns_on_one_of_ours():
    """Rollouts and updates in one scan: an actor-critic without memory, which learns to stand on a goal."""
    env = purerl.LogWrapper(purerl.FlattenObservationWrapper(GymnaxEnv("gridworld")))
    params, (envs, length, gamma) = env.default_params, (64, 20, 0.9)
    sizes = [env.observation_space(params).shape[0], 32, env.action_space(params).n + 1]
    keys = jax.random.split(jax.random.key(0), 2)
    weights = [0.3 * jax.random.normal(key, shape) for key, shape in zip(keys, itertools.pairwise(sizes), strict=True)]
    optimiser = optax.adam(1e-2)

    def heads(weights, observation):
        out = jnp.tanh(observation @ weights[0]) @ weights[1]
        return jax.nn.log_softmax(out[..., :-1]), out[..., -1]

    def update(carry, key):
        def act(carry, key):
            observation, state = carry
            action = jax.random.categorical(key, heads(weights, observation)[0])
            stepped = jax.vmap(env.step, in_axes=(0, 0, 0, None))(jax.random.split(key, envs), state, action, params)
            following, state, reward, terminated, truncated, info = stepped
            return (following, state), (observation, action, reward, terminated | truncated, info)

        weights, moments, observation, state = carry
        (observation, state), batch = jax.lax.scan(act, (observation, state), jax.random.split(key, length))
        seen, action, reward, done, info = batch

        def add(total, x):
            total = x[0] + gamma * (1.0 - x[1]) * total
            return total, total

        last = heads(weights, observation)[1]
        returns = jax.lax.scan(add, last, (reward, done), reverse=True)[1]

        def loss(weights):
            logits, value = heads(weights, seen)
            chosen = jnp.take_along_axis(logits, action[..., None], -1)[..., 0]
            advantage = jax.lax.stop_gradient(returns - value)
            entropy = -(jnp.exp(logits) * logits).sum(-1)
            return (-chosen * advantage + 0.5 * (returns - value) ** 2 - 0.02 * entropy).mean()

        change, moments = optimiser.update(jax.grad(loss)(weights), moments)
        weights = optax.apply_updates(weights, change)
        return (weights, moments, observation, state), info["returned_episode_returns"].mean()

    observation, state = jax.vmap(env.reset, in_axes=(0, None))(jax.random.split(jax.random.key(1), envs), params)
    start = (weights, optimiser.init(weights), observation, state)
    _, returns = jax.jit(lambda start: jax.lax.scan(update, start, jax.random.split(jax.random.key(2), 400)))(start)
    assert returns[3] < 2.0 and returns[-1] > 12.0
