"""Environments of gymnax as ours."""

import re
from pathlib import Path
from typing import Any

import gymnax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dynamite_jax as dj
from dynamite_envs.errors import UserError
from dynamite_envs.from_gymnax import from_gymnax
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
    (code,) = (
        code for code in re.findall(r"^```python\n(.*?)^```", page, re.DOTALL | re.MULTILINE) if "gymnax" in code
    )
    exec(code, {})
    changes: Any = {"vae.minibatches": 2, "ppo.minibatches": 2, "env_options": {"horizon": 20}}
    run = dj.train(dj.preset("cart_side", seeds=1, num_envs=4, chunk=2, steps=320, eval_episodes=8, **changes))
    assert 0.0 < dj.evaluate(run).returns[0] < 40.0
    del MAKERS["cart_side"]


def test_a_context_that_changes_nothing_is_refused():
    with pytest.raises(UserError, match="reward and params are None; one of them must depend on the context"):
        cart(reward=None)
