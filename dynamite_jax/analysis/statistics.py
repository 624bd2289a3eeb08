"""Statistics over seeds that reports are made of."""

from typing import Any

import numpy as np
from scipy import stats


def interquartile_mean(values: Any) -> float:
    """Mean of the middle half (Agarwal et al., 2021); with fewer than four values their plain mean.

    Args:
        values: one number a seed, [N].
    """
    return float(stats.trim_mean(np.asarray(values, float), 0.25))


def bootstrap_interval(values: Any, level: float = 0.95, resamples: int = 10_000) -> list[float]:
    """Percentile bootstrap interval of the interquartile mean over seeds, [low, high]; fixed random stream."""
    values = np.asarray(values, float)
    chosen = np.random.default_rng(0).integers(0, len(values), (resamples, len(values)))
    means = stats.trim_mean(values[chosen], 0.25, axis=1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return [float(low), float(high)]


def summarise(values: Any) -> dict[str, Any]:
    """`per_seed`, `iqm` and `ci95` of one number a seed."""
    per_seed = [float(v) for v in np.asarray(values)]
    return {"per_seed": per_seed, "iqm": interquartile_mean(per_seed), "ci95": bootstrap_interval(per_seed)}
