"""Statistics over seeds."""

import json

import numpy as np
import pytest
from scipy import stats

from dynamite_jax.analysis import statistics


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([3.0], 3.0),
        ([1.0, 2.0], 1.5),
        ([1.0, 2.0, 6.0], 3.0),
        ([0.0, 1.0, 3.0, 100.0], 2.0),
        ([100.0, 3.0, 0.0, 1.0, 5.0], 3.0),
        ([-9.0, -9.0, 1.0, 2.0, 3.0, 4.0, 9.0, 99.0], 2.5),
    ],
)
def test_the_interquartile_mean_is_the_mean_of_the_middle_half(values, expected):
    assert statistics.interquartile_mean(values) == pytest.approx(expected)


@pytest.mark.parametrize("n", [4, 5, 10, 12, 37])
def test_the_interquartile_mean_is_that_of_scipy(n):
    values = np.random.default_rng(n).normal(size=n) ** 3
    assert statistics.interquartile_mean(values) == pytest.approx(stats.trim_mean(values, 0.25))
    middle = np.sort(values)[n // 4 : n - n // 4]
    assert statistics.interquartile_mean(values) == pytest.approx(middle.mean())


def test_whole_numbers_are_averaged_as_real_ones():
    assert statistics.interquartile_mean([1, 2]) == 1.5
    assert isinstance(statistics.interquartile_mean(np.array([1, 2], np.float32)), float)


@pytest.mark.parametrize("n", [2, 3, 4, 5, 20])
def test_the_bootstrap_interval_contains_the_interquartile_mean(n):
    values = np.random.default_rng(n).normal(size=n)
    low, high = statistics.bootstrap_interval(values)
    assert values.min() <= low <= statistics.interquartile_mean(values) <= high <= values.max()
    assert low < high


def test_the_bootstrap_interval_narrows_with_the_seeds_and_widens_with_the_level():
    values = np.random.default_rng(0).normal(size=400)
    widths = [np.diff(statistics.bootstrap_interval(values[:n]))[0] for n in (10, 40, 400)]
    assert widths[0] > widths[1] > widths[2]
    wide, narrow = (np.diff(statistics.bootstrap_interval(values[:20], level))[0] for level in (0.99, 0.5))
    assert wide > narrow


def test_the_bootstrap_interval_is_as_wide_as_theory_says():
    values = np.random.default_rng(0).normal(size=400)
    low, high = statistics.bootstrap_interval(values)
    resampled = stats.bootstrap(
        (values,), lambda x, axis: stats.trim_mean(x, 0.25, axis=axis), method="percentile", n_resamples=4000, rng=1
    )
    expected = resampled.confidence_interval
    assert (low, high) == pytest.approx((expected.low, expected.high), abs=0.015)


def test_the_bootstrap_interval_of_one_seed_is_a_point():
    assert statistics.bootstrap_interval([2.5]) == [2.5, 2.5]


def test_the_bootstrap_interval_is_reproducible():
    values = np.random.default_rng(0).normal(size=30)
    assert statistics.bootstrap_interval(values) == statistics.bootstrap_interval(values)


def test_a_summary_holds_every_seed_and_is_json():
    summary = statistics.summarise(np.array([1.0, 2.0, 3.0, 10.0], np.float32))
    assert summary["per_seed"] == [1.0, 2.0, 3.0, 10.0]
    assert summary["iqm"] == 2.5
    assert summary["ci95"] == statistics.bootstrap_interval([1.0, 2.0, 3.0, 10.0])
    assert json.loads(json.dumps(summary)) == summary


def test_a_scale_that_is_exact_scales_the_interval():
    values = [3.0, 5.0, 9.0, 4.0, 6.0]
    scaled = statistics.summarise_scaled(values, [1.0], [11.0])
    plain = statistics.summarise(values)
    np.testing.assert_allclose(scaled["per_seed"], [0.2, 0.4, 0.8, 0.3, 0.5])
    assert scaled["iqm"] == pytest.approx((plain["iqm"] - 1.0) / 10.0)
    np.testing.assert_allclose(scaled["ci95"], (np.array(plain["ci95"]) - 1.0) / 10.0)


def test_the_interval_of_a_score_holds_how_uncertain_its_scale_is():
    """Against the interval of many samples from the three groups, drawn one by one."""
    values, bottom, top = [5.0, 5.0, 5.0], [0.0, 1.0, 2.0, 3.0], [8.0, 10.0]
    scaled = statistics.summarise_scaled(values, bottom, top)
    np.testing.assert_allclose(scaled["per_seed"], (5.0 - 1.5) / (9.0 - 1.5))
    rng = np.random.default_rng(3)
    scores = []
    for _ in range(4000):
        b, t = sorted(rng.choice(bottom, 4)), rng.choice(top, 2)
        low, high = (b[1] + b[2]) / 2, t.mean()
        scores.append((5.0 - low) / (high - low))
    np.testing.assert_allclose(scaled["ci95"], np.quantile(scores, [0.025, 0.975]), atol=0.02)


def test_samples_without_a_scale_are_left_out():
    """Where the bottom is drawn as 4, above the top of 3, scores would be 1 to 3."""
    low, high = statistics.summarise_scaled([1.0, 2.0], [0.0, 4.0], [3.0, 3.0])["ci95"]
    assert (low, high) == (pytest.approx(-1.0), pytest.approx(2.0 / 3.0))
