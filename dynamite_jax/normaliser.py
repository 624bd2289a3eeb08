"""Running mean and deviation of the policy features (brax's running statistics)."""

import contextlib
import io
from typing import Any

import jax.numpy as jnp

from dynamite_jax.types import Array

with contextlib.redirect_stdout(io.StringIO()):  # MJX reports a missing optional package on import
    from brax.training.acme import running_statistics, specs


def init(size: int) -> Any:
    """Statistics of no data: mean 0, deviation 1."""
    return running_statistics.init_state(specs.Array((size,), jnp.dtype("float32")))


def update(state: Any, features: Array) -> Any:
    """Take in features, [..., F]."""
    return running_statistics.update(state, features)


def normalise(state: Any, features: Array, clip: float) -> Array:
    """Features in deviations from their mean, at most `clip` of them, [..., F]."""
    return running_statistics.normalize(features, state, max_abs_value=clip)
