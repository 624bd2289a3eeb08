"""The networks of a belief that learns from what whole sessions tell: those of the ELBO, a smoother and a baseline."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from dynamite_jax.data.types import Array, BeliefState, Gaussian
from dynamite_jax.networks.belief_model import BeliefModel
from dynamite_jax.networks.mlp import MLP, GaussianHead

LEAST_ERROR = 0.05  # in deviations of rewards; what the baseline leaves is magnified by no more than this
SPEED = 10.0  # how much faster than weights the logarithm of this error moves


class SmoothingModel(BeliefModel):
    """A `BeliefModel` with a posterior of a session given all of its steps, and a reward that knows no context.

    The posterior takes the steps of a session as a set, as in neural processes (Garnelo et al., 2018): features of each
    step, their mean, and a Gaussian of that. No gradient has to pass through time.

    Attributes:
        units: of the smoother's layers.
    """

    units: int

    def setup(self):
        super().setup()
        self.step_features = MLP((self.units, self.units), self.units)
        self.session_body = nn.Dense(self.units)
        self.session_head = GaussianHead(self.encoder.latent)
        self.baseline = MLP(self.decoder_hidden, 1)
        self.baseline_error = self.param("baseline_error", nn.initializers.zeros, ())

    def without_context(self, observation: Array, action: Array, next_observation: Array) -> tuple[Array, Array]:
        """Mean and deviation of p(r | s, a, s'): [..., O], [..., A], [..., O] -> [...], []."""
        mean = self.baseline(jnp.concatenate([observation, action, next_observation], axis=-1))[..., 0]
        return mean, jnp.maximum(jnp.exp(SPEED * self.baseline_error), LEAST_ERROR)

    def decode_reward(self, observation: Array, action: Array, next_observation: Array, z: Array) -> Array:
        """Mean of p(r | s, a, s', z): the decoder says how many deviations it is off the baseline.

        No gradient of the decoder reaches that.
        """
        mean, deviation = jax.lax.stop_gradient(self.without_context(observation, action, next_observation))
        return mean + deviation * super().decode_reward(observation, action, next_observation, z)

    def posterior(
        self, observation: Array, action: Array, next_observation: Array, residual: Array, first: Array, last: Array
    ) -> Gaussian:
        """q(z | all steps of the session) at each step.

        Args:
            observation: s, [H, B, O].
            action: encoded, [H, B, A].
            next_observation: s', [H, B, O].
            residual: what the baseline leaves of the reward, in deviations, [H, B].
            first: first step of each step's session, [H, B].
            last: the last one, [H, B].

        Returns:
            The same at all steps of a session, [H, B, L].
        """
        x = jnp.concatenate([observation, action, next_observation, residual[..., None]], axis=-1)
        features = self.step_features(x)
        sums = jnp.concatenate([jnp.zeros_like(features[:1]), jnp.cumsum(features, axis=0)])
        batch, length = jnp.arange(residual.shape[1]), (last - first + 1.0)[..., None]
        mean = (sums[last + 1, batch] - sums[first, batch]) / length
        body = self.session_body(jnp.concatenate([nn.relu(mean), jnp.log(length)], axis=-1))
        return self.session_head(nn.relu(body))

    def __call__(self, state: BeliefState, observation: Array, action: Array, reward: Array) -> BeliefState:
        """Touch every network once; only `init` calls this."""
        only = jnp.zeros((1, *reward.shape), int)
        self.posterior(observation[None], action[None], observation[None], reward[None], first=only, last=only)
        return super().__call__(state, observation, action, reward)
