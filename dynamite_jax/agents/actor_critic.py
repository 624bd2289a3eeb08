"""Policy and critic."""

import math
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from dynamite_jax.data.types import Array
from dynamite_jax.networks.mlp import MLP


@jax.custom_vjp
def bounded(x: Array, low: float, high: float) -> Array:
    """`x` clipped to [low, high], with a gradient that is 0 only where descent would push it on beyond.

    The gradient of a plain clip is 0 both ways there, so that what once went beyond would never come back.
    """
    return jnp.clip(x, low, high)


def _bounded_forward(x: Array, low: float, high: float) -> tuple[Array, tuple[Array, Array]]:
    return bounded(x, low, high), (x >= high, x <= low)


def _bounded_backward(at: tuple[Array, Array], gradient: Array) -> tuple[Array, None, None]:
    at_high, at_low = at
    beyond = (at_high & (gradient < 0.0)) | (at_low & (gradient > 0.0))
    return jnp.where(beyond, 0.0, gradient), None, None


bounded.defvjp(_bounded_forward, _bounded_backward)


class ActorCritic(nn.Module):
    """Policy and value networks on normalised features, [..., F] -> (policy parameters [..., P], value [...]).

    Attributes:
        policy_hidden: hidden layers of the policy.
        value_hidden: hidden layers of the critic.
        actions: policy outputs, logits or means.
        continuous: whether there is a learnt log-deviation beside the mean.
        activation: name of the activation.
        action_deviation: standard deviation of continuous actions at the start.
        deviation_bounds: least and greatest standard deviation of continuous actions.
    """

    policy_hidden: Sequence[int]
    value_hidden: Sequence[int]
    actions: int
    continuous: bool
    activation: str
    action_deviation: float = 1.0
    deviation_bounds: tuple[float, float] = (1e-3, 10.0)

    @nn.compact
    def __call__(self, features: Array) -> tuple[Array, Array]:
        policy = MLP(self.policy_hidden, self.actions, self.activation, output_scale=0.01, name="policy")(features)
        if self.continuous:
            start = nn.initializers.constant(math.log(self.action_deviation))
            log_std = bounded(self.param("log_std", start, (self.actions,)), *map(math.log, self.deviation_bounds))
            policy = jnp.concatenate([policy, jnp.broadcast_to(log_std, policy.shape)], axis=-1)
        value = MLP(self.value_hidden, 1, self.activation, name="value")(features)
        return policy, value[..., 0]
