"""The inference network that attends to the history."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct

from dynamite_jax.data.types import Array, BeliefState, Gaussian
from dynamite_jax.networks.gru import end_of_previous_session
from dynamite_jax.networks.mlp import MLP, GaussianHead


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
        attention = jax.nn.dot_product_attention(query, key, value, mask=mask)
        x = x + self.attended(attention.reshape(x.shape))
        return x + self.mlp(self.before_mlp(x))


class TransformerEncoder(nn.Module):
    """Causal transformer in place of the recurrent network.

    Attention gets the history alone and makes the boundary logit, for an episode in one pass (`embed`) or step by
    step from a cache of keys and values. The previous session's belief enters after it, in the head of the
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
        return BeliefState(
            hidden=cache,
            belief=standard,
            previous=standard,
            boundary_logit=jnp.full(batch, -jnp.inf, standard.mean.dtype),
        )

    def _token(self, observation: Array, action: Array, reward: Array) -> Array:
        return self.token(jnp.concatenate([observation, action, reward[..., None]], axis=-1))

    def embed(self, observation: Array, action: Array, reward: Array) -> Array:
        """The history up to each step of episodes: [H, B, O], [H, B, A] (encoded), [H, B] -> [H, B, D]."""
        tokens = self._token(observation, action, reward)
        steps = len(tokens)
        x = jnp.swapaxes(tokens, 0, 1) + self.position[:steps]
        mask = jnp.tril(jnp.ones((steps, steps), bool))[None, None]
        for block in self.blocks:
            query, key, value = block.project(x)
            x = block.finish(x, query, key, value, mask=mask)
        return jnp.swapaxes(self.end(x), 0, 1)

    def step(self, state: BeliefState, inputs: Array) -> BeliefState:
        """Boundary and belief of one step: `inputs` from `embed`, [..., D]. The cache stays as it is."""
        logit = self.boundary(inputs)[..., 0] if self.boundary_head else state.boundary_logit
        body = self.body(inputs)
        if self.conditioning:
            body = body + self.previous_body(state.previous.features)
        belief = self.head(nn.relu(body))
        return BeliefState(
            hidden=state.hidden, belief=belief, previous=end_of_previous_session(state, logit), boundary_logit=logit
        )

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
            x = block.finish(x, query, keys[-1], values[-1], mask=mask)
        cache = Cache(jnp.stack(keys, axis=1), jnp.stack(values, axis=1), cache.count + 1)
        return self.step(state.replace(hidden=cache), self.end(x)[:, 0])
