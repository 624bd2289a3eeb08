"""Running means and deviations against NumPy in float64, at counts that float32 alone can't hold."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dynamite_jax.agents import running_statistics
from dynamite_jax.agents.running_statistics import Quantities, RunningStatistics
from episodes import update

NAMES = Quantities._fields
SHAPES = Quantities((3,), (2,), (), ())
UPDATE = jax.jit(update)


def batch(rng, steps=(5, 8), centre=0.0, scale=1.0) -> Quantities:
    return Quantities(*(jnp.asarray(rng.normal(centre, scale, (*steps, *shape)), jnp.float32) for shape in SHAPES))


def exact(x: running_statistics.Sum) -> np.ndarray:
    return np.asarray(x.value, float) + np.asarray(x.error, float)


def at_count(count: float, mean: float, deviation: float) -> RunningStatistics:
    """Statistics of `count` steps of known moments."""

    def fill(number):
        return Quantities(*(jnp.full(shape, number, jnp.float32) for shape in SHAPES))

    statistics = running_statistics.with_moments(fill(mean), fill(deviation))
    return statistics.replace(count=running_statistics.Sum.of(jnp.float32(count)))


def test_statistics_of_nothing_change_no_number():
    statistics = running_statistics.init(3, 2)
    for name in NAMES:
        mean, deviation = running_statistics.moments(statistics, name)
        np.testing.assert_array_equal(mean, 0.0)
        np.testing.assert_array_equal(deviation, 1.0)


def test_moments_are_those_of_all_valid_steps():
    rng, statistics = np.random.default_rng(0), running_statistics.init(3, 2)
    valid_data: dict[str, list] = {name: [] for name in NAMES}
    for k in range(300):
        data, valid = batch(rng, centre=50.0 + 0.01 * k, scale=0.1), rng.random((5, 8)) < 0.6
        for name in NAMES:
            valid_data[name].append(np.asarray(getattr(data, name), float)[valid])
        statistics = UPDATE(statistics, data, jnp.asarray(valid))
    assert exact(statistics.count) == sum(len(x) for x in valid_data["reward"])
    for name in NAMES:
        everything = np.concatenate(valid_data[name])
        mean, deviation = running_statistics.moments(statistics, name)
        np.testing.assert_allclose(mean, everything.mean(0), rtol=1e-6)
        np.testing.assert_allclose(deviation, everything.std(0), rtol=1e-5)


@pytest.mark.parametrize("garbage", [1e30, np.inf, np.nan])
def test_what_is_not_valid_reaches_no_number(garbage):
    rng = np.random.default_rng(1)
    data, valid = batch(rng), np.arange(5)[:, None] < rng.integers(1, 6, 8)
    dirty = Quantities(*(np.where(valid.reshape(5, 8, *[1] * (x.ndim - 2)), x, garbage) for x in data))
    statistics = [UPDATE(running_statistics.init(3, 2), each, jnp.asarray(valid)) for each in (data, dirty)]
    jax.tree.map(np.testing.assert_array_equal, *statistics)


def test_a_batch_of_no_valid_step_changes_nothing():
    rng = np.random.default_rng(2)
    for before in (
        running_statistics.init(3, 2),
        UPDATE(running_statistics.init(3, 2), batch(rng), jnp.ones((5, 8), bool)),
    ):
        after = UPDATE(before, batch(rng), jnp.zeros((5, 8), bool))
        jax.tree.map(np.testing.assert_array_equal, before, after)


def test_steps_are_counted_one_by_one_beyond_10_to_the_12():
    statistics, rng = at_count(1e12, 0.0, 1.0), np.random.default_rng(3)
    data, start = batch(rng, (1, 3)), exact(statistics.count)
    for _ in range(50):
        statistics = UPDATE(statistics, data, jnp.ones((1, 3), bool))
    assert exact(statistics.count) - start == 150


def test_moments_go_on_moving_at_10_to_the_12_steps():
    """A batch of 40 steps moves them by less than a hundredth of the last bit of a float32."""
    count, updates, centre, scale = 1e12, 2000, 300.0, 5.0
    statistics, rng = at_count(count, 1.0, 2.0), np.random.default_rng(4)
    data = batch(rng, centre=centre, scale=scale)
    valid = jnp.ones((5, 8), bool)
    once = UPDATE(statistics, data, valid)
    np.testing.assert_array_equal(once.mean.reward.value, statistics.mean.reward.value)
    start = float(statistics.count.value)
    statistics = jax.jit(lambda s: jax.lax.fori_loop(0, updates, lambda _, s: update(s, data, valid), s))(statistics)
    steps = updates * valid.size
    share = steps / (start + steps)
    for name in NAMES:
        x = np.asarray(getattr(data, name), float)
        mean, variance = x.mean((0, 1)), x.var((0, 1))
        moved = share * (mean - 1.0)
        widened = share * (variance - 4.0 + (1.0 - share) * (mean - 1.0) ** 2)
        np.testing.assert_allclose(exact(getattr(statistics.mean, name)) - 1.0, moved, rtol=1e-4)
        np.testing.assert_allclose(exact(getattr(statistics.variance, name)) - 4.0, widened, rtol=1e-4)


def test_what_never_varies_is_not_divided_by_zero():
    constant = Quantities(*(np.full((5, 8, *shape), 3.0, np.float32) for shape in SHAPES))
    statistics = UPDATE(running_statistics.init(3, 2), constant, jnp.ones((5, 8), bool))
    mean, deviation = running_statistics.moments(statistics, "observation")
    np.testing.assert_array_equal(mean, 3.0)
    np.testing.assert_array_equal(deviation, np.float32(1e-6))


def test_normalising_is_undone_within_the_clip():
    statistics = at_count(10.0, 3.0, 2.0)
    x = jnp.array([3.0, 5.0, -1.0, 100.0, -100.0])
    normalised = running_statistics.normalise(statistics, "reward", x, 5.0)
    np.testing.assert_allclose(normalised, [0.0, 1.0, -2.0, 5.0, -5.0])
    np.testing.assert_allclose(running_statistics.denormalise(statistics, "reward", normalised)[:3], x[:3])


def test_given_moments_come_back_to_the_bit():
    rng = np.random.default_rng(5)
    mean, deviation = (Quantities(*(np.float32(rng.uniform(0.1, 9.0, shape)) for shape in SHAPES)) for _ in range(2))
    statistics = running_statistics.with_moments(mean, deviation)
    for name in NAMES:
        moments = running_statistics.moments(statistics, name)
        np.testing.assert_array_equal(moments[0], getattr(mean, name))
        np.testing.assert_array_equal(moments[1], getattr(deviation, name))
