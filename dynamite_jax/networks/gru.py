"""Recurrent networks over the history: a GRU, and the inference network that is one."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from dynamite_jax.data.types import Array, BeliefState, Gaussian
from dynamite_jax.networks.mlp import GaussianHead


def gru_update(hidden: Array, from_input: Array, from_hidden: Array) -> Array:
    """Next state of a GRU from its two halves of gates, each [..., 3 G] for reset, update, new: [..., G] -> [..., G].

    The form is that of cuDNN: the reset gate acts after the recurrent product.
    """
    reset_in, update_in, new_in = jnp.split(from_input, 3, axis=-1)
    reset_h, update_h, new_h = jnp.split(from_hidden, 3, axis=-1)
    update = nn.sigmoid(update_in + update_h)
    new = jnp.tanh(new_in + nn.sigmoid(reset_in + reset_h) * new_h)
    return new + update * (hidden - new)


class GRU(nn.Module):
    """Recurrent network over a history (s_t, a_{t-1}, r_{t-1}).

    The gates are those of a GRU (Cho et al., 2014). The part of them that depends on the inputs alone is `embed`, one
    matrix product for all steps of an episode; `recur` does what must be done in turn.

    Attributes:
        hidden: units G of the recurrent state.
        embedding: units of the input layer.
    """

    hidden: int
    embedding: int

    def setup(self):
        self.input = nn.Dense(self.embedding)
        self.input_gates = nn.Dense(3 * self.hidden)
        self.recurrent_gates = nn.Dense(3 * self.hidden)

    def embed(self, observation: Array, action: Array, reward: Array) -> Array:
        """Gate inputs of (s_t, a_{t-1}, r_{t-1}): [..., O], [..., A] (encoded), [...] -> [..., 3 G]."""
        x = jnp.concatenate([observation, action, reward[..., None]], axis=-1)
        return self.input_gates(nn.relu(self.input(x)))

    def recur(self, hidden: Array, gates: Array) -> Array:
        """Next recurrent state: [..., G], gate inputs [..., 3 G] -> [..., G]."""
        return gru_update(hidden, gates, self.recurrent_gates(hidden))

    def __call__(self, hidden: Array, observation: Array, action: Array, reward: Array) -> Array:
        """Embed and recur at once, as when acting."""
        return self.recur(hidden, self.embed(observation, action, reward))


class Encoder(GRU):
    """Recurrent inference network q(z_t, d_t | s_{..t}, a_{..t-1}, r_{..t-1}).

    Attributes:
        latent: numbers L of the latent.
        conditioning: whether the step also receives the belief at the end of the previous session.
        boundary_head: whether boundaries are predicted; without it none ever is.
        reset: whether the recurrent state starts anew where a boundary is predicted, with the evidence that showed it.
    """

    latent: int
    conditioning: bool
    boundary_head: bool
    reset: bool = False

    def setup(self):
        super().setup()
        if self.conditioning:
            self.previous_gates = nn.Dense(3 * self.hidden, use_bias=False)
        self.head = GaussianHead(self.latent)
        if self.boundary_head:
            self.boundary = nn.Dense(1)

    def initial(self, batch: tuple[int, ...]) -> BeliefState:
        """State before the first observation: no history, standard normal beliefs."""
        standard = Gaussian.standard((*batch, self.latent))
        return BeliefState(
            hidden=jnp.zeros((*batch, self.hidden)),
            belief=standard,
            previous=standard,
            boundary_logit=jnp.full(batch, -jnp.inf, standard.mean.dtype),
        )

    def step(self, state: BeliefState, inputs: Array) -> BeliefState:
        """One step: `inputs` from `embed`, [..., 3 G]."""
        hidden = self._recur(state.hidden, inputs, state.previous)
        logit = self.boundary(hidden)[..., 0] if self.boundary_head else state.boundary_logit
        previous = end_of_previous_session(state, logit)
        if self.reset:
            anew = self._recur(jnp.zeros_like(hidden), inputs, previous)
            hidden = jnp.where((logit > 0.0)[..., None], anew, hidden)
        return BeliefState(hidden=hidden, belief=self.head(hidden), previous=previous, boundary_logit=logit)

    def _recur(self, hidden: Array, inputs: Array, previous: Gaussian) -> Array:
        """Next recurrent state, given the belief of the previous session where that conditions it."""
        if self.conditioning:
            inputs = inputs + self.previous_gates(previous.features)
        return self.recur(hidden, inputs)

    def __call__(self, state: BeliefState, observation: Array, action: Array, reward: Array) -> BeliefState:
        """Embed and step at once, as when acting."""
        return self.step(state, self.embed(observation, action, reward))


def end_of_previous_session(state: BeliefState, boundary_logit: Array) -> Gaussian:
    """Belief at the end of the previous session: the last one where a boundary is predicted, else as before."""
    at_boundary = (boundary_logit > 0.0)[..., None]  # P(d) > 1/2
    return jax.tree.map(lambda last, previous: jnp.where(at_boundary, last, previous), state.belief, state.previous)
