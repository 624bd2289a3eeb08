"""The pytrees that travel between rollout, losses and the host.

Shapes: E environments, H steps of an episode, L numbers of a latent, G units of the recurrent state.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from dynamite_jax.config import PPOConfig, VAEConfig

Array = jax.Array
Params = Any

# Their fields with the metadata `static` are part of the structure, all others are leaves.
jax.tree_util.register_dataclass(VAEConfig)
jax.tree_util.register_dataclass(PPOConfig)


class Gaussian(struct.PyTreeNode):
    """Diagonal Gaussian: `mean` [..., L] and `log_variance` [..., L]. The belief over the latent is one."""

    mean: Array
    log_variance: Array

    @property
    def shape(self) -> tuple[int, ...]:
        """[..., L]; with `dtype` it lets `Float[Gaussian, "H B L"]` name the shape of a belief."""
        return self.mean.shape

    @property
    def dtype(self) -> Any:
        """That of both."""
        return self.mean.dtype

    @classmethod
    def standard(cls, shape: tuple[int, ...]) -> "Gaussian":
        """Standard normal of the given shape."""
        return cls(jnp.zeros(shape), jnp.zeros(shape))

    @property
    def features(self) -> Array:
        """Mean and log-variance side by side, [..., 2 L]: the belief as inputs of a network."""
        return jnp.concatenate([self.mean, self.log_variance], axis=-1)

    def sample(self, key: Array) -> Array:
        """Reparameterised sample, [..., L]."""
        return self.mean + jnp.exp(0.5 * self.log_variance) * jax.random.normal(key, self.mean.shape)


class BeliefState(struct.PyTreeNode):
    """What the encoder carries from step to step.

    Attributes:
        hidden: recurrent state, [..., G], or a transformer's cache of keys and values.
        belief: q(z_t | history up to t).
        previous: belief at the end of the previous session, by the *predicted* boundaries.
        boundary_logit: logit of the predicted boundary, [...].
    """

    hidden: Any
    belief: Gaussian
    previous: Gaussian
    boundary_logit: Array


class Trajectories(struct.PyTreeNode):
    """What the belief model learns from, [H(+1), B, ...]: the part of a `Rollout` that no policy shaped."""

    observation: Array
    action: Array
    reward: Array
    session: Array
    valid: Array
    context: Any = None


class Rollout(struct.PyTreeNode):
    """One episode of E environments; leaves are time-major. Behind the end of an episode they are 0, `session` -1.

    Attributes:
        observation: s_0 .. s_H, [H + 1, E, O].
        action: a_0 .. a_{H-1} as sampled, [H, E, ...].
        reward: reward of each step, [H, E].
        terminated: whether the task had ended after the step, [H, E].
        session: index of the session under which the step was made, [H, E].
        features: policy inputs of s_0 .. s_H before normalisation, [H + 1, E, F].
        log_prob: log pi(a_t | features_t), [H, E].
        value: critic's output at s_0 .. s_H, in its unit, [H + 1, E].
        boundary: whether the agent took the step to be the first after a boundary, [H, E].
        valid: whether the episode had not ended before the step, [H, E]; the step that ends it is valid.
        context: `Belief.label` of the context under which the step was made, [H, E, ...]; None of most beliefs.
    """

    observation: Array
    action: Array
    reward: Array
    terminated: Array
    session: Array
    features: Array
    log_prob: Array
    value: Array
    boundary: Array
    valid: Array
    context: Any = None

    @property
    def trajectories(self) -> Trajectories:
        """The part that no policy shaped."""
        return Trajectories(
            observation=self.observation,
            action=self.action,
            reward=self.reward,
            session=self.session,
            valid=self.valid,
            context=self.context,
        )

    def cleared(self) -> "Rollout":
        """The same without what was recorded after the end, so that it reaches no number and no gradient."""
        reached = jnp.concatenate([jnp.ones_like(self.valid[:1]), self.valid])  # the states that the steps led to
        goes_on = jnp.concatenate([self.valid, ~self.terminated[-1:]])  # there is no value after a termination

        def where(mask: Array, x: Array, otherwise: int = 0) -> Array:
            mask = mask.reshape(*mask.shape, *[1] * (x.ndim - mask.ndim))
            return jnp.where(mask, x, jnp.asarray(otherwise, x.dtype))

        return self.replace(
            observation=where(reached, self.observation),
            action=where(self.valid, self.action),
            reward=where(self.valid, self.reward),
            terminated=self.terminated | ~self.valid,
            session=where(self.valid, self.session, -1),
            features=where(reached, self.features),
            log_prob=where(self.valid, self.log_prob),
            value=where(goes_on, self.value),
            boundary=self.boundary & self.valid,
            context=jax.tree.map(partial(where, self.valid), self.context),
        )


class AgentParams(struct.PyTreeNode):
    """What an agent needs to act: `belief_params`, `policy_params` and the statistics of `normaliser`."""

    belief_params: Params
    policy_params: Params
    normaliser: Any
