"""The networks of the evidence lower bound: encoder, decoders, latent dynamics prior."""

from collections.abc import Sequence

import flax.linen as nn
import jax.numpy as jnp

from dynamite_jax.data.types import Array, BeliefState, Gaussian
from dynamite_jax.networks.gru import Encoder
from dynamite_jax.networks.mlp import MLP, GaussianHead
from dynamite_jax.networks.transformer import TransformerEncoder


class BeliefModel(nn.Module):
    """Encoder, decoders and latent dynamics prior: the networks of the ELBO.

    Attributes:
        encoder: the inference network.
        decoder_hidden: hidden layers of the decoders.
        observation_size: O, length of an observation.
        decode_state: whether there is a next-state decoder.
        dynamics_prior: whether the prior of a session depends on the previous session.
    """

    encoder: Encoder | TransformerEncoder
    decoder_hidden: Sequence[int]
    observation_size: int
    decode_state: bool
    dynamics_prior: bool

    def setup(self):
        self.reward_decoder = MLP(self.decoder_hidden, 1)
        if self.decode_state:
            self.state_decoder = MLP(self.decoder_hidden, self.observation_size)
        if self.dynamics_prior:
            self.prior_body = nn.Dense(32)
            self.prior_head = GaussianHead(self.encoder.latent)

    def decode_reward(self, observation: Array, action: Array, next_observation: Array, z: Array) -> Array:
        """Mean of p(r | s, a, s', z): [..., O], [..., A], [..., O], [..., L] -> [...]."""
        x = jnp.concatenate([observation, action, next_observation, z], axis=-1)
        return self.reward_decoder(x)[..., 0]

    def decode_next(self, observation: Array, action: Array, z: Array) -> Array:
        """Mean of p(s' | s, a, z) as a change of s: [..., O], [..., A], [..., L] -> [..., O]."""
        return observation + self.state_decoder(jnp.concatenate([observation, action, z], axis=-1))

    def prior(self, previous: Gaussian) -> Gaussian:
        """p(z^i | z^{i-1}) from the final belief of the previous session."""
        return self.prior_head(nn.tanh(self.prior_body(previous.features)))

    def act(self, state: BeliefState, observation: Array, action: Array, reward: Array) -> BeliefState:
        """One step of the encoder."""
        return self.encoder(state, observation, action, reward)

    def embed(self, observation: Array, action: Array, reward: Array) -> Array:
        """Gate inputs of the encoder."""
        return self.encoder.embed(observation, action, reward)

    def step(self, state: BeliefState, inputs: Array) -> BeliefState:
        """One step of the encoder from gate inputs."""
        return self.encoder.step(state, inputs)

    def __call__(self, state: BeliefState, observation: Array, action: Array, reward: Array) -> BeliefState:
        """Touch every network once; only `init` calls this."""
        state = self.encoder(state, observation, action, reward)
        self.decode_reward(observation, action, observation, state.belief.mean)
        if self.decode_state:
            self.decode_next(observation, action, state.belief.mean)
        if self.dynamics_prior:
            self.prior(state.belief)
        return state
