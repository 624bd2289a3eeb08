"""Running means and deviations of what networks see (brax's running statistics)."""

import contextlib
import io
from typing import Any, NamedTuple

import jax.numpy as jnp

from dynamite_jax.data.types import Array

with contextlib.redirect_stdout(io.StringIO()):  # MJX reports a missing optional package on import
    from brax.training.acme import running_statistics, specs


class Seen(NamedTuple):
    """What statistics are kept of: policy features [..., F], observations [..., O], rewards and returns [...]."""

    features: Any
    observation: Any
    reward: Any
    returns: Any


def init(features: int, observation: int) -> Any:
    """Statistics of no data: mean 0, deviation 1."""
    shapes = Seen((features,), (observation,), (), ())
    return running_statistics.init_state(Seen(*(specs.Array(shape, jnp.dtype("float32")) for shape in shapes)))


def update(state: Any, seen: Seen) -> Any:
    """Take in a batch."""
    return running_statistics.update(state, seen)


def normalise(state: Any, name: str, x: Array, clip: float) -> Array:
    """Features, observations or rewards in deviations from their mean, at most `clip` of them."""
    mean, deviation = moments(state, name)
    return running_statistics.normalize(x, running_statistics.NestedMeanStd(mean, deviation), max_abs_value=clip)


def restore(state: Any, name: str, x: Array) -> Array:
    """The way back from deviations to units."""
    mean, deviation = moments(state, name)
    return running_statistics.denormalize(x, running_statistics.NestedMeanStd(mean, deviation))


def moments(state: Any, name: str) -> tuple[Array, Array]:
    """Mean and standard deviation so far."""
    return getattr(state.mean, name), getattr(state.std, name)
