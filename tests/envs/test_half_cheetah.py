"""The contexts of the half-cheetahs; their body is tested in test_physics.py."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from dynamite_envs import exact, registry
from dynamite_envs.errors import UserError
from dynamite_envs.half_cheetah import HalfCheetah, Task

VARIES = {
    "halfcheetah_vel": ("speed",),
    "halfcheetah_dir": ("direction",),
    "halfcheetah_wind": ("wind",),
    "halfcheetah_vel_wind": ("speed", "wind"),
    "halfcheetah_dir_wind": ("direction", "wind"),
}
DRAWS = 20_000
KEYS = jax.random.split(jax.random.key(0), DRAWS)


def make(name: str, **options: Any) -> HalfCheetah:
    env = registry.make(name, **options)
    assert isinstance(env, HalfCheetah)
    return env


def first(env: HalfCheetah) -> Any:
    return jax.tree.map(np.asarray, jax.jit(jax.vmap(env.init_context))(KEYS))


def following(env: HalfCheetah, **context: float) -> Any:
    task = Task(*(jnp.float32(context.get(part, still)) for part, still in STILL.items()))
    return jax.tree.map(np.asarray, jax.jit(jax.vmap(env.next_context, (0, None)))(KEYS, task))


STILL = {"speed": 1.5, "direction": 1.0, "wind": 0.0}


def uniform(x: np.ndarray, low: float, high: float) -> bool:
    return bool(stats.kstest(x, stats.uniform(low, high - low).cdf).pvalue > 1e-3)


def share(x: np.ndarray, probability: float) -> bool:
    return bool(stats.binomtest(int(x.sum()), len(x), probability).pvalue > 1e-3)


@pytest.mark.parametrize("name", VARIES)
def test_the_defaults_are_those_of_the_spec(name):
    env = make(name)
    assert (env.horizon, float(env.p), env.observation_size, env.action_space.size) == (200, np.float32(0.02), 17, 6)
    assert env.simulator.dt == pytest.approx(0.05) and not env.reset_on_switch and exact.find(env).references() == {}
    assert env.decode_state == ("wind" in name)
    for value, expected in (
        (env.top_speed, 3.0),
        (env.speed_deviation, 0.3),
        (env.flip, 0.8),
        (env.control_cost, 0.05),
    ):
        assert float(value) == np.float32(expected)
    np.testing.assert_allclose(env.wind, [25, 35] if name == "halfcheetah_wind" else [10, 20])


@pytest.mark.parametrize("name", VARIES)
def test_what_does_not_vary_stands_still(name):
    env = make(name)
    for task in (first(env), following(env, speed=0.3, wind=12.0), following(make(name, iid=True))):
        for part, still in STILL.items():
            assert (np.ptp(getattr(task, part)) > 0) == (part in VARIES[name])
            if part not in VARIES[name]:
                assert np.all(getattr(task, part) == still)


@pytest.mark.parametrize("name", VARIES)
def test_who_is_told_the_context_is_told_what_varies(name):
    task = Task(jnp.float32(0.7), jnp.float32(-1.0), jnp.float32(13.0))
    features = make(name).context_features(task)
    np.testing.assert_allclose(features, [float(getattr(task, part)) for part in VARIES[name]])


def test_speeds_are_uniform_at_first():
    assert uniform(first(make("halfcheetah_vel")).speed, 0, 3)


def test_the_next_speed_mirrors_the_last():
    env = make("halfcheetah_vel")
    speed = following(env, speed=1.0).speed
    assert stats.kstest(speed, stats.norm(2.0, 0.3).cdf).pvalue > 1e-3
    fast = following(env, speed=0.0).speed
    assert fast.max() == 3.0 and share(fast == 3.0, 0.5)
    assert following(env, speed=3.0).speed.min() == 0.0


@pytest.mark.parametrize("name", ["halfcheetah_dir", "halfcheetah_dir_wind"])
def test_directions_turn_with_probability_0_8(name):
    env = make(name)
    assert share(first(env).direction > 0, 0.5)
    for side in (-1.0, 1.0):
        direction = following(env, direction=side, wind=11.0).direction
        assert share(direction == -side, 0.8) and np.all(np.abs(direction) == 1)
    assert share(following(make(name, flip=0.3)).direction < 0, 0.3)


@pytest.mark.parametrize("name, low, high", [("halfcheetah_wind", 25, 35), ("halfcheetah_vel_wind", 10, 20)])
def test_winds_turn_with_probability_0_8_and_blow_with_a_force_between_two(name, low, high):
    env = make(name)
    assert share(first(env).wind > 0, 0.5) and uniform(np.abs(first(env).wind), low, high)
    for wind in (-18.0, 11.0):
        after = following(env, wind=wind).wind
        assert share(np.sign(after) == -np.sign(wind), 0.8) and uniform(np.abs(after), low, high)
    assert np.all(np.abs(first(make(name, wind=[3.0, 3.0])).wind) == 3)


def test_two_parts_are_drawn_independently():
    for task in (first(make("halfcheetah_vel_wind")), following(make("halfcheetah_vel_wind"), wind=15.0)):
        assert abs(np.corrcoef(task.speed, task.wind)[0, 1]) < 4 / np.sqrt(DRAWS)
    for task in (first(make("halfcheetah_dir_wind")), following(make("halfcheetah_dir_wind"), wind=15.0)):
        assert abs(np.corrcoef(task.direction, task.wind)[0, 1]) < 4 / np.sqrt(DRAWS)


@pytest.mark.parametrize("name", VARIES)
def test_the_iid_option_draws_as_at_first(name):
    env = make(name, iid=True)
    after = following(env, speed=0.0, direction=-1.0, wind=-15.0)
    if "vel" in name:
        assert uniform(after.speed, 0, 3)
    if "dir" in name:
        assert share(after.direction > 0, 0.5)
    if "wind" in name:
        low, high = (25, 35) if name == "halfcheetah_wind" else (10, 20)
        assert share(after.wind > 0, 0.5) and uniform(np.abs(after.wind), low, high)


def test_episodes_start_as_gymnasiums():
    motion = jax.tree.map(np.asarray, jax.jit(jax.vmap(make("halfcheetah_vel").init_physics))(KEYS[:4096]))
    assert motion.qpos.shape == motion.qvel.shape == (4096, 9)
    assert uniform(motion.qpos.ravel(), -0.1, 0.1)
    assert stats.kstest(motion.qvel.ravel(), stats.norm(0, 0.1).cdf).pvalue > 1e-3
    assert not motion.warmstart.any()


def test_kernels_and_contexts_change_without_recompiling():
    traces = []

    @jax.jit
    def run(env: HalfCheetah, key: jax.Array) -> Task:
        traces.append(0)
        return env.next_context(key, env.init_context(key))

    for change in ({}, {"iid": True}, {"flip": 0.1}, {"p": 0.5}, {"wind": [1, 2]}, {"top_speed": 2}):
        run(make("halfcheetah_vel_wind", **change), jax.random.key(0))
    assert traces == [0]


@pytest.mark.parametrize(
    "option, value",
    [
        ("wind", [1, 2, 3]),
        ("wind", [20, 10]),
        ("wind", [-1, 2]),
        ("top_speed", -1.0),
        ("iid", 1),
        ("flip", 1.5),
        ("wind", 3.0),
        ("varies", ["speed"]),
        ("top_speed", None),
        ("torso_position", 1),
    ],
)
def test_an_option_that_can_not_be_is_refused(option, value):
    with pytest.raises(UserError, match=f"{option} (of .*)?is .* must be|no option '{option}'; "):
        registry.make("halfcheetah_vel_wind", **{option: value})


def test_options_of_the_kernel_change_nothing_where_contexts_are_iid():
    for option, value in (("speed_deviation", 0.1), ("flip", 0.5)):
        with pytest.raises(UserError, match=f"{option} is {value}; where iid is True and speed and wind vary"):
            registry.make("halfcheetah_vel_wind", iid=True, **{option: value})
    for option, value in (("top_speed", 2.0), ("wind", [1, 2])):
        np.testing.assert_allclose(getattr(make("halfcheetah_vel_wind", iid=True, **{option: value}), option), value)


@pytest.mark.parametrize(
    "name, unused",
    [
        ("halfcheetah_vel", {"speed": 1.0, "flip": 0.5, "wind": [1, 2]}),
        ("halfcheetah_dir", {"speed": 1.0, "top_speed": 2.0, "speed_deviation": 0.1, "wind": [1, 2]}),
        ("halfcheetah_wind", {"top_speed": 2.0, "speed_deviation": 0.1}),
        ("halfcheetah_vel_wind", {"speed": 1.0}),
        ("halfcheetah_dir_wind", {"speed": 1.0, "top_speed": 2.0, "speed_deviation": 0.1}),
    ],
)
def test_an_option_that_would_change_nothing_is_refused(name, unused):
    for option, value in {"speed": 1.0, "top_speed": 2.0, "speed_deviation": 0.1, "flip": 0.5, "wind": [1, 2]}.items():
        if option in unused:
            with pytest.raises(UserError, match=rf"{option} is .*; where iid is False and .* it would change nothing"):
                registry.make(name, **{option: value})
        else:
            np.testing.assert_allclose(getattr(make(name, **{option: value}), option), value)
