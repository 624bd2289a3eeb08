"""Networks: recurrent and attending encoders, decoders, latent dynamics prior, actor-critic.

Sizes follow public VariBAD code for small tasks unless a preset says otherwise.
"""

import math
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct

from dynamite_jax.data.types import Array, BeliefState, Gaussian

ACTIVATIONS = {"tanh": nn.tanh, "relu": nn.relu, "silu": nn.silu}
LOG_VARIANCE_RANGE = (-10.0, 4.0)  # keeps KL terms finite; a posterior deviation of 0.007 is sharp enough


class MLP(nn.Module):
    """Dense layers with an activation between them and a linear end, [..., I] -> [..., O]."""

    hidden: Sequence[int]
    outputs: int
    activation: str = "relu"
    output_scale: float = 1.0

    @nn.compact
    def __call__(self, x: Array) -> Array:
        activation = ACTIVATIONS[self.activation]
        for size in self.hidden:
            x = activation(nn.Dense(size, kernel_init=nn.initializers.he_normal())(x))
        return nn.Dense(
            self.outputs,
            kernel_init=nn.initializers.variance_scaling(self.output_scale**2, "fan_in", "truncated_normal"),
        )(x)


class GaussianHead(nn.Module):
    """Linear map to a diagonal Gaussian, [..., I] -> L means and log-variances."""

    latent: int

    @nn.compact
    def __call__(self, x: Array) -> Gaussian:
        mean, log_variance = jnp.split(nn.Dense(2 * self.latent)(x), 2, axis=-1)
        return Gaussian(mean, jnp.clip(log_variance, *LOG_VARIANCE_RANGE))


def gated(hidden: Array, from_input: Array, from_hidden: Array) -> Array:
    """Next state of a GRU from its two halves of gates, each [..., 3 G] for reset, update, new: [..., G] -> [..., G].

    The form is that of cuDNN: the reset gate acts behind the recurrent product.
    """
    reset_in, update_in, new_in = jnp.split(from_input, 3, axis=-1)
    reset_h, update_h, new_h = jnp.split(from_hidden, 3, axis=-1)
    update = nn.sigmoid(update_in + update_h)
    new = jnp.tanh(new_in + nn.sigmoid(reset_in + reset_h) * new_h)
    return new + update * (hidden - new)


class GRU(nn.Module):
    """Recurrent network over a history (s_t, a_{t-1}, r_{t-1}).

    The gates are those of a GRU (Cho et al., 2014). The part of them that depends on the inputs alone is `embed`, one
    matrix product for a whole episode; `recur` does what must be done in turn.

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
        return gated(hidden, gates, self.recurrent_gates(hidden))

    def __call__(self, hidden: Array, observation: Array, action: Array, reward: Array) -> Array:
        """Embed and recur at once, as when acting."""
        return self.recur(hidden, self.embed(observation, action, reward))


class Encoder(GRU):
    """Recurrent inference network q(z_t, d_t | s_{..t}, a_{..t-1}, r_{..t-1}).

    Attributes:
        latent: numbers L of the latent.
        conditioning: whether the step also receives the belief at the end of the previous session.
        boundary_head: whether boundaries are predicted; without it none ever is.
    """

    latent: int
    conditioning: bool
    boundary_head: bool

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
            jnp.zeros((*batch, self.hidden)), standard, standard, jnp.full(batch, -jnp.inf, standard.mean.dtype)
        )

    def step(self, state: BeliefState, inputs: Array) -> BeliefState:
        """One step: `inputs` from `embed`, [..., 3 G]."""
        if self.conditioning:
            inputs = inputs + self.previous_gates(state.previous.features)
        hidden = self.recur(state.hidden, inputs)
        logit = self.boundary(hidden)[..., 0] if self.boundary_head else state.boundary_logit
        return BeliefState(hidden, self.head(hidden), ended(state, logit), logit)

    def __call__(self, state: BeliefState, observation: Array, action: Array, reward: Array) -> BeliefState:
        """Embed and step at once, as when acting."""
        return self.step(state, self.embed(observation, action, reward))


def ended(state: BeliefState, boundary_logit: Array) -> Gaussian:
    """Belief that stood at the end of the previous session, now that a boundary is predicted or not."""
    at_boundary = (boundary_logit > 0.0)[..., None]  # P(d) > 1/2
    return jax.tree.map(lambda end, kept: jnp.where(at_boundary, end, kept), state.belief, state.previous)


class Cache(struct.PyTreeNode):
    """Keys and values of the steps so far: [..., M, T, N, D / N] twice for M layers and N heads, and their number."""

    key: Array
    value: Array
    count: Array


class Block(nn.Module):
    """A layer of a transformer, normalised before attention and before the MLP (Xiong et al., 2020).

    Attributes:
        width: D, units of a token.
        heads: N, which divide the width.
    """

    width: int
    heads: int

    def setup(self):
        self.before_attention, self.before_mlp = nn.LayerNorm(), nn.LayerNorm()
        self.query_key_value = nn.Dense(3 * self.width)
        self.attended = nn.Dense(self.width)
        self.mlp = MLP((2 * self.width,), self.width)

    def project(self, x: Array) -> list[Array]:
        """Queries, keys and values, [..., D] -> three of [..., N, D / N]."""
        three = jnp.split(self.query_key_value(self.before_attention(x)), 3, axis=-1)
        return [y.reshape(*y.shape[:-1], self.heads, -1) for y in three]

    def finish(self, x: Array, query: Array, key: Array, value: Array, mask: Array) -> Array:
        """Attention, then the MLP: x [B, S, D], queries [B, S, N, D / N], keys [B, T, ...], mask [B or 1, 1, S, T]."""
        seen = jax.nn.dot_product_attention(query, key, value, mask=mask)
        x = x + self.attended(seen.reshape(x.shape))
        return x + self.mlp(self.before_mlp(x))


class TransformerEncoder(nn.Module):
    """Causal transformer in place of the recurrent network.

    Attention sees the history alone and makes the boundary logit, for a whole episode in one pass (`embed`) or step by
    step from a cache of keys and values. The previous session's belief enters behind it, in the head of the
    belief (`step`): what depends on predicted boundaries must be done in turn.

    Attributes:
        horizon: steps of an episode.
        hidden: D, units of a token.
        heads: of attention; they divide `hidden`.
        layers: M.
        latent: numbers L of the latent.
        conditioning: whether the belief also depends on the belief at the end of the previous session.
        boundary_head: whether boundaries are predicted; without it none ever is.
    """

    horizon: int
    hidden: int
    heads: int
    layers: int
    latent: int
    conditioning: bool
    boundary_head: bool

    def setup(self):
        self.token = nn.Dense(self.hidden)
        self.position = self.param("position", nn.initializers.normal(0.02), (self.horizon + 1, self.hidden))
        self.blocks = [Block(self.hidden, self.heads) for _ in range(self.layers)]
        self.end = nn.LayerNorm()
        self.body = nn.Dense(self.hidden)
        if self.conditioning:
            self.previous_body = nn.Dense(self.hidden, use_bias=False)
        self.head = GaussianHead(self.latent)
        if self.boundary_head:
            self.boundary = nn.Dense(1)

    def initial(self, batch: tuple[int, ...]) -> BeliefState:
        """State before the first observation: an empty cache, standard normal beliefs."""
        standard = Gaussian.standard((*batch, self.latent))
        empty = jnp.zeros((*batch, self.layers, self.horizon + 1, self.heads, self.hidden // self.heads))
        cache = Cache(empty, empty, jnp.zeros(batch, jnp.int32))
        return BeliefState(cache, standard, standard, jnp.full(batch, -jnp.inf, standard.mean.dtype))

    def _token(self, observation: Array, action: Array, reward: Array) -> Array:
        return self.token(jnp.concatenate([observation, action, reward[..., None]], axis=-1))

    def embed(self, observation: Array, action: Array, reward: Array) -> Array:
        """The history up to each step of whole episodes: [H, B, O], [H, B, A] (encoded), [H, B] -> [H, B, D]."""
        tokens = self._token(observation, action, reward)
        steps = len(tokens)
        x = jnp.swapaxes(tokens, 0, 1) + self.position[:steps]
        mask = jnp.tril(jnp.ones((steps, steps), bool))[None, None]
        for block in self.blocks:
            query, key, value = block.project(x)
            x = block.finish(x, query, key, value, mask)
        return jnp.swapaxes(self.end(x), 0, 1)

    def step(self, state: BeliefState, inputs: Array) -> BeliefState:
        """Boundary and belief of one step: `inputs` from `embed`, [..., D]. The cache stays as it is."""
        logit = self.boundary(inputs)[..., 0] if self.boundary_head else state.boundary_logit
        body = self.body(inputs)
        if self.conditioning:
            body = body + self.previous_body(state.previous.features)
        belief = self.head(nn.relu(body))
        return BeliefState(state.hidden, belief, ended(state, logit), logit)

    def __call__(self, state: BeliefState, observation: Array, action: Array, reward: Array) -> BeliefState:
        """One step from the cache, as when acting: [E, O], [E, A] (encoded), [E]."""
        cache = state.hidden
        here = jnp.arange(self.horizon + 1) == cache.count[:, None]  # [E, T]
        mask = (jnp.arange(self.horizon + 1) <= cache.count[:, None])[:, None, None]
        x = (self._token(observation, action, reward) + self.position[cache.count])[:, None]
        keys, values = [], []
        for layer, block in enumerate(self.blocks):
            query, key, value = block.project(x)
            keys.append(jnp.where(here[..., None, None], key, cache.key[:, layer]))
            values.append(jnp.where(here[..., None, None], value, cache.value[:, layer]))
            x = block.finish(x, query, keys[-1], values[-1], mask)
        cache = Cache(jnp.stack(keys, axis=1), jnp.stack(values, axis=1), cache.count + 1)
        return self.step(state.replace(hidden=cache), self.end(x)[:, 0])


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
        policy = MLP(self.policy_hidden, self.actions, self.activation, 0.01, name="policy")(features)
        if self.continuous:
            start = nn.initializers.constant(math.log(self.action_deviation))
            log_std = bounded(self.param("log_std", start, (self.actions,)), *map(math.log, self.deviation_bounds))
            policy = jnp.concatenate([policy, jnp.broadcast_to(log_std, policy.shape)], axis=-1)
        value = MLP(self.value_hidden, 1, self.activation, name="value")(features)
        return policy, value[..., 0]
