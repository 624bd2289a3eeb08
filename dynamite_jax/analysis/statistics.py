"""Statistics over seeds for reports."""

from typing import Any

import numpy as np


def interquartile_mean(values: Any) -> float:
    """Mean of the middle half (Agarwal et al., 2021); with fewer than four values their plain mean.

    Args:
        values: one number a seed, [N].
    """
    return float(_middle_mean(np.asarray(values, float)))


def bootstrap_interval(values: Any, level: float = 0.95, resamples: int = 10_000) -> list[float]:
    """Percentile bootstrap interval of the interquartile mean over seeds, [low, high]; fixed random stream."""
    values = np.asarray(values, float)
    chosen = np.random.default_rng(0).integers(0, len(values), (resamples, len(values)))
    means = _middle_mean(values[chosen])
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return [float(low), float(high)]


def summarise(values: Any) -> dict[str, Any]:
    """`per_seed`, `iqm` and `ci95` of one number a seed."""
    per_seed = [float(v) for v in np.asarray(values)]
    return {"per_seed": per_seed, "iqm": interquartile_mean(per_seed), "ci95": bootstrap_interval(per_seed)}


def summarise_scaled(values: Any, bottom: Any, top: Any, resamples: int = 10_000) -> dict[str, Any]:
    """`summarise` on a scale on which `bottom` is 0 and `top` is 1, each known from seeds of its own.

    The interval is a bootstrap stratified by the three groups, so that it also holds how uncertain the scale is.
    Samples in which the top is not above the bottom have no scale and are left out.

    Args:
        values: one number a seed, [N].
        bottom: likewise, [M]; one number where it is exact.
        top: likewise, [K].
        resamples: of the bootstrap.
    """
    groups = [np.asarray(group, float) for group in (values, bottom, top)]
    low, high = (interquartile_mean(group) for group in groups[1:])
    per_seed = (groups[0] - low) / (high - low)
    rng = np.random.default_rng(0)
    drawn = [_middle_mean(group[rng.integers(0, len(group), (resamples, len(group)))]) for group in groups]
    middle, low, high = (sample[drawn[2] > drawn[1]] for sample in drawn)
    ends = np.quantile((middle - low) / (high - low), [0.025, 0.975])
    return {
        "per_seed": per_seed.tolist(),
        "iqm": interquartile_mean(per_seed),
        "ci95": [float(end) for end in ends],
    }


def _middle_mean(values: np.ndarray) -> np.ndarray:
    """Mean along the last axis without the least and the greatest quarter, whose size is rounded down."""
    cut = values.shape[-1] // 4
    return np.sort(values, axis=-1)[..., cut : values.shape[-1] - cut].mean(-1)
