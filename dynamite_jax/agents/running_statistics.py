"""Running means and variances of what networks take in, exact enough for 10^12 steps in float32.

Batches are merged by the formula of Chan, Golub and LeVeque (1979). At such counts a batch moves a mean by less than
the last bit of a float32, so every sum keeps the rounding errors of its additions beside it (Knuth's two-sum).
"""

from typing import Any, NamedTuple

import jax.numpy as jnp
from flax import struct
from jaxtyping import Bool, Float

from dynamite_jax.data.types import Array

DEVIATION_RANGE = (1e-6, 1e6)  # what never varies is not divided by 0


class Quantities(NamedTuple):
    """What statistics are kept of: policy features [..., F], observations [..., O], rewards and returns [...]."""

    features: Any
    observation: Any
    reward: Any
    returns: Any


class Sum(struct.PyTreeNode):
    """A float32 number that is added to many times: `value`, and the `error` that its roundings have left out."""

    value: Array
    error: Array

    @classmethod
    def of(cls, value: Array) -> "Sum":
        """Nothing added yet."""
        return cls(value, jnp.zeros_like(value))

    @property
    def shape(self) -> tuple[int, ...]:
        """That of the number."""
        return self.value.shape

    @property
    def dtype(self) -> Any:
        """That of the number."""
        return self.value.dtype

    def __add__(self, x: Array) -> "Sum":
        """One more term."""
        x = x + self.error
        value = self.value + x
        rounded = value - self.value  # what of `x` has arrived
        return Sum(value, (self.value - (value - rounded)) + (x - rounded))


class RunningStatistics(struct.PyTreeNode):
    """Statistics of all steps so far; with none, mean 0 and variance 1.

    Attributes:
        count: steps, [].
        mean: a `Sum` of each quantity, [F], [O], [], [].
        variance: likewise.
    """

    count: Sum
    mean: Quantities
    variance: Quantities


def init(features: int, observation: int) -> RunningStatistics:
    """Statistics of no steps: mean 0, deviation 1."""
    shapes = ((features,), (observation,), (), ())
    return with_moments(
        Quantities(*(jnp.zeros(shape, jnp.float32) for shape in shapes)),
        Quantities(*(jnp.ones(shape, jnp.float32) for shape in shapes)),
    )


def with_moments(mean: Quantities, deviation: Quantities) -> RunningStatistics:
    """Statistics that normalise by given moments; the first batch replaces them."""
    return RunningStatistics(
        count=Sum.of(jnp.zeros((), jnp.float32)),
        mean=Quantities(*(Sum.of(jnp.asarray(x)) for x in mean)),
        variance=Quantities(*(Sum.of(jnp.asarray(x) ** 2) for x in deviation)),
    )


def counted(statistics: RunningStatistics, valid: Bool[Array, "H E"]) -> RunningStatistics:
    """Count a batch of steps, after `merge` of all of its quantities."""
    return statistics.replace(count=statistics.count + valid.sum().astype(jnp.float32))


def merge(statistics: RunningStatistics, valid: Bool[Array, "H E"], **batch: Array) -> RunningStatistics:
    """Merge some quantities of a batch of steps, [H, E, ...], that are still to be `counted`.

    Args:
        statistics: of the steps before.
        valid: steps that count.
        batch: a field of `Quantities` each.
    """
    steps = valid.sum().astype(jnp.float32)
    count = statistics.count + steps
    share = steps / jnp.maximum(count.value, 1.0)  # of the batch in all steps

    def merge_one(
        x: Float[Array, "H E *shape"], mean: Float[Sum, "*shape"], variance: Float[Sum, "*shape"]
    ) -> tuple[Float[Sum, "*shape"], Float[Sum, "*shape"]]:
        mask = valid.reshape(*valid.shape, *[1] * (x.ndim - valid.ndim))
        axes = tuple(range(valid.ndim))
        difference = jnp.where(mask, x - mean.value - mean.error, 0.0)
        moved = difference.sum(axes) / jnp.maximum(steps, 1.0)
        inside = jnp.where(mask, (difference - moved) ** 2, 0.0).sum(axes) / jnp.maximum(steps, 1.0)
        change = inside - variance.value - variance.error + (1.0 - share) * moved**2
        return mean + share * moved, variance + share * change

    mean, variance = statistics.mean, statistics.variance
    for name, x in batch.items():
        moved_mean, moved_variance = merge_one(x, getattr(mean, name), getattr(variance, name))
        mean, variance = mean._replace(**{name: moved_mean}), variance._replace(**{name: moved_variance})
    return statistics.replace(mean=mean, variance=variance)


def moments(statistics: RunningStatistics, name: str) -> tuple[Float[Array, "*shape"], Float[Array, "*shape"]]:
    """Mean and standard deviation of a quantity so far; the deviation is at least 1e-6."""
    mean, variance = (jnp.asarray(getattr(x, name).value) for x in (statistics.mean, statistics.variance))
    return mean, jnp.clip(jnp.sqrt(jnp.maximum(variance, 0.0)), *DEVIATION_RANGE)


def normalise(
    statistics: RunningStatistics, name: str, x: Float[Array, "*shape"], clip: float
) -> Float[Array, "*shape"]:
    """A quantity in deviations from its mean, at most `clip` of them."""
    mean, deviation = moments(statistics, name)
    return jnp.clip((x - mean) / deviation, -clip, clip)


def denormalise(statistics: RunningStatistics, name: str, x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """The way back from deviations to units."""
    mean, deviation = moments(statistics, name)
    return x * deviation + mean
