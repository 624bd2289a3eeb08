"""Ant and humanoid: how the context pays, how it changes, when the task ends."""

from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dynamite_envs import registry
from dynamite_envs.errors import UserError


@cache
def made(name):
    """An environment, its compiled step, and a state after some random steps."""
    env: Any = registry.make(name, p=0.0)
    step = jax.jit(env.step)
    state = jax.jit(env.reset)(jax.random.key(0))
    for key in jax.random.split(jax.random.key(1), 4):
        state = step(state, jax.random.uniform(key, (env.action_space.size,), minval=-1.0, maxval=1.0))
    return env, step, state


@pytest.mark.parametrize("name, weight, cost", [("ant_dir", 1.0, 0.5), ("humanoid_dir", 1.25, 0.1)])
def test_a_direction_pays_for_the_velocity_along_it(name, weight, cost):
    """At angle 0 the reward is brax's own; elsewhere it differs by the velocity alone."""
    env, step, state = made(name)
    action = jnp.linspace(-0.5, 0.5, env.action_space.size)
    own = jax.jit(env.body.step)(state.physics, action)
    velocity = np.array([own.metrics["x_velocity"], own.metrics["y_velocity"]])
    assert np.abs(velocity).min() > 1e-3
    effort = np.sum(np.square(action) * np.square(env.body.sys.actuator.ctrl_range[:, 1]))
    healthy = 1.0 if name == "ant_dir" else 5.0
    np.testing.assert_allclose(own.reward, weight * velocity[0] + healthy - cost * effort, atol=1e-4)
    for angle in (0.0, 1.0, -2.5):
        after = step(state.replace(context=jnp.float32(angle)), action)
        turned = weight * velocity @ [np.cos(angle) - 1.0, np.sin(angle)]
        np.testing.assert_allclose(after.reward, float(own.reward) + turned, atol=1e-4)
        np.testing.assert_allclose(env.context_features(jnp.float32(angle)), [np.cos(angle), np.sin(angle)], atol=1e-6)


def test_a_goal_pays_for_being_near_and_its_place_is_seen_relative_to_the_torso():
    env, step, state = made("ant_goal")
    action = jnp.linspace(-0.5, 0.5, 8)
    goal = jnp.array([0.7, -1.1])
    after = step(state.replace(context=goal), action)
    place = np.asarray(after.obs)[:2]  # the observation begins with it
    np.testing.assert_allclose(place, after.physics.pipeline_state.x.pos[0, :2], atol=1e-6)
    expected = -np.abs(place - np.asarray(goal)).sum() - 0.1 * np.sum(np.square(action))
    np.testing.assert_allclose(after.reward, expected, atol=1e-5)
    np.testing.assert_array_equal(env.context_features(goal), goal)


def test_a_humanoid_that_falls_ends_the_task():
    _, step, state = made("humanoid_dir")
    for _ in range(150):
        state = step(state, jnp.zeros(17))
    assert state.terminated and not state.truncated and float(state.reward) == 0.0


@pytest.mark.parametrize("name", ["ant_dir", "ant_goal"])
def test_an_ant_may_leave_the_ground_where_it_has_a_goal(name):
    env, step, state = made(name)
    pipeline = env.body.pipeline_init(env.body.sys.init_q.at[2].set(1.5), jnp.zeros(env.body.sys.qd_size()))
    after = step(state.replace(physics=state.physics.replace(pipeline_state=pipeline)), jnp.zeros(8))
    assert float(after.physics.pipeline_state.x.pos[0, 2]) > 1.0
    assert bool(after.terminated) == (name == "ant_dir")


@pytest.mark.parametrize("iid", [False, True])
def test_contexts_mostly_turn_round(iid):
    """Directions by half a circle with a deviation of 0.5; goals as well, at any distance alike by area."""
    keys = jax.random.split(jax.random.key(0), 4000)
    dirs, goals = (registry.make(name, iid=iid) for name in ("ant_dir", "ant_goal"))
    for env, angle_of in ((dirs, lambda x: x), (goals, lambda x: jnp.arctan2(x[..., 1], x[..., 0]))):
        first = jax.vmap(env.init_context)(keys)
        following = jax.vmap(env.next_context)(jax.random.split(jax.random.key(1), 4000), first)
        for angles in (angle_of(first), angle_of(following)):
            assert np.all(np.abs(angles) <= np.pi) and abs(np.exp(1j * np.asarray(angles)).mean()) < 0.05
        turn = np.asarray(angle_of(following) - angle_of(first) - np.pi)
        turn = np.arctan2(np.sin(turn), np.cos(turn))
        expected = np.pi / np.sqrt(3) if iid else 0.5
        np.testing.assert_allclose([turn.mean(), turn.std()], [0.0, expected], atol=0.09 if iid else 0.03)
        if env is goals:
            squares = np.square(following).sum(-1)
            np.testing.assert_allclose([squares.mean(), squares.max()], [2.0, 4.0], rtol=0.04)


@pytest.mark.parametrize(
    "name, options, message",
    [
        ("ant_dir", {"backend": "mjx"}, "backend is 'mjx'; it must be one of spring, positional, generalized"),
        ("ant_dir", {"iid": True, "turn_deviation": 0.1}, "turn_deviation is 0.1; where iid is True it would change"),
        ("ant_goal", {"reach": -1.0}, "reach is -1.0; it must be 0 or more"),
        ("ant_dir", {"reach": 1.0}, "ant_dir has no option 'reach'"),
    ],
)
def test_options_that_can_not_be_are_refused(name, options, message):
    with pytest.raises(UserError, match=message):
        registry.make(name, **options)


def test_the_velocity_can_weigh_more():
    env: Any = registry.make("humanoid_dir", weight=2.0)
    assert float(env.weight) == 2.0 and float(registry.make("humanoid_dir").__dict__["weight"]) == 1.25


def test_the_physics_is_computed_by_the_backend_asked_for():
    """And programs are found again, since environments of one backend share a body."""
    options: Any = ({}, {"backend": "generalized"}, {"p": 0.3})
    bodies: Any = [registry.make("ant_dir", **changed).__dict__["body"] for changed in options]
    assert bodies[0] is bodies[2] is not bodies[1]
    names = [body._pipeline.__name__.split(".")[-2] for body in bodies]
    assert names == ["spring", "generalized", "spring"]
