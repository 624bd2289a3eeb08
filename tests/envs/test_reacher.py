"""The goals of the reacher; its arm is tested in test_physics.py."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from dynamite_envs import exact, registry
from dynamite_envs.errors import UserError
from dynamite_envs.reacher import Reacher

KEYS = jax.random.split(jax.random.key(0), 20_000)


def make(**options: Any) -> Reacher:
    env = registry.make("reacher", **options)
    assert isinstance(env, Reacher)
    return env


def first(env: Reacher) -> np.ndarray:
    return np.asarray(jax.jit(jax.vmap(env.init_context))(KEYS))


def following(env: Reacher, goal: Any) -> np.ndarray:
    return np.asarray(jax.jit(jax.vmap(env.next_context, (0, None)))(KEYS, jnp.asarray(goal, jnp.float32)))


def circle(goals: int, radius: float = 0.16) -> np.ndarray:
    turn = 2 * np.pi * np.arange(goals) / goals
    return radius * np.stack([np.cos(turn), np.sin(turn)], -1)


def counts(positions: np.ndarray, goals: int) -> np.ndarray:
    """How often each goal of the circle occurs; there may be no other positions."""
    distance = np.linalg.norm(positions[:, None] - circle(goals), axis=-1)
    assert distance.min(1).max() < 1e-6
    return np.bincount(distance.argmin(1), minlength=goals)


def test_the_defaults_are_those_of_the_spec():
    env = make()
    assert (env.horizon, float(env.p), env.observation_size, env.action_space.size) == (200, np.float32(0.02), 8, 2)
    assert env.simulator.dt == pytest.approx(0.02)
    assert not env.reset_on_switch and not env.decode_state and exact.find(env).references() == {}
    np.testing.assert_allclose(env.context_features(jnp.array([0.1, 0.05])), [0.1, 0.05])


@pytest.mark.parametrize("goals", [3, 8])
def test_the_first_goal_is_any_on_the_circle(goals):
    assert stats.chisquare(counts(first(make(goals=goals)), goals)).pvalue > 1e-3
    np.testing.assert_allclose(np.linalg.norm(first(make(radius=0.1)), axis=1), 0.1, rtol=1e-5)


@pytest.mark.parametrize("goals, advance", [(8, 0.8), (5, 0.3), (8, 1.0)])
def test_a_switch_goes_to_the_next_goal_or_anywhere(goals, advance):
    for old in (0, goals - 1):
        probabilities = np.full(goals, (1 - advance) / goals)
        probabilities[(old + 1) % goals] += advance
        observed = counts(following(make(goals=goals, advance=advance), circle(goals)[old]), goals)
        assert not observed[probabilities == 0].any()
        if advance < 1:
            assert stats.chisquare(observed, probabilities * len(KEYS)).pvalue > 1e-3


def test_goals_stay_on_the_circle_however_often_they_move():
    env = make(p=1.0, horizon=200, advance=1.0)
    move = jax.jit(lambda goal: env.next_context(jax.random.key(0), goal))
    goal = jnp.asarray(circle(8)[0], jnp.float32)
    for _ in range(200):
        goal = move(goal)
    np.testing.assert_allclose(goal, circle(8)[0], atol=1e-5)


def test_the_iid_option_draws_every_goal_from_the_disc():
    env = make(iid=True)
    for goals in (first(env), following(env, [0.16, 0.0])):
        distance, turn = np.linalg.norm(goals, axis=1), np.arctan2(goals[:, 1], goals[:, 0])
        assert stats.kstest((distance / 0.2) ** 2, "uniform").pvalue > 1e-3
        assert stats.kstest((turn + np.pi) / (2 * np.pi), "uniform").pvalue > 1e-3


def test_episodes_start_as_gymnasiums():
    motion = jax.tree.map(np.asarray, jax.jit(jax.vmap(make().init_physics))(KEYS[:4096]))
    assert stats.kstest(motion.qpos.ravel(), stats.uniform(-0.1, 0.2).cdf).pvalue > 1e-3
    assert stats.kstest(motion.qvel.ravel(), stats.uniform(-0.005, 0.01).cdf).pvalue > 1e-3
    assert not motion.warmstart.any()


@pytest.mark.parametrize("qpos, tip", [((0, 0), (0.21, 0)), ((np.pi / 2, 0), (0, 0.21)), ((0, np.pi / 2), (0.1, 0.11))])
def test_the_tip_is_at_the_end_of_two_links(qpos, tip):
    state = make().reset(jax.random.key(0))
    at = make().tip(state.physics.replace(qpos=jnp.array(qpos, jnp.float32)))
    np.testing.assert_allclose(at, tip, atol=1e-6)


@pytest.mark.parametrize("iid, unused", [(True, {"goals": 5, "radius": 0.1, "advance": 0.5}), (False, {"reach": 0.1})])
def test_an_option_that_would_change_nothing_is_refused(iid, unused):
    for option, value in {"goals": 5, "radius": 0.1, "advance": 0.5, "reach": 0.1}.items():
        if option in unused:
            with pytest.raises(UserError, match=f"{option} is {value}; where iid is {iid} it would change nothing"):
                make(iid=iid, **{option: value})
        else:
            assert float(getattr(make(iid=iid, **{option: value}), option)) == pytest.approx(value)


@pytest.mark.parametrize(
    "option, value", [("goals", 1), ("iid", "yes"), ("advance", -0.1), ("radius", [0.1]), ("radius", -0.1)]
)
def test_an_option_that_can_not_be_is_refused(option, value):
    with pytest.raises(UserError, match=option):
        make(**{option: value})
