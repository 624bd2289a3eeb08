"""Networks: recurrent encoder, decoders, latent dynamics prior, actor-critic.

Sizes follow public VariBAD code for small tasks unless a preset says otherwise.
"""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from dynamite_jax.types import Array, BeliefState, Gaussian

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


class Encoder(nn.Module):
    """Recurrent inference network q(z_t, d_t | s_{..t}, a_{..t-1}, r_{..t-1}).

    The gates are those of a GRU (Cho et al., 2014, in the form of cuDNN). The part of them that depends on the
    inputs alone is `embed`, one matrix product for a whole episode; `step` does what must be done in turn.

    Attributes:
        hidden: units G of the recurrent state.
        latent: numbers L of the latent.
        embedding: units of the input layer.
        conditioning: whether the step also receives the belief at the end of the previous session.
        boundary_head: whether boundaries are predicted; without it none ever is.
    """

    hidden: int
    latent: int
    embedding: int
    conditioning: bool
    boundary_head: bool

    def setup(self):
        self.input = nn.Dense(self.embedding)
        self.input_gates = nn.Dense(3 * self.hidden)
        self.recurrent_gates = nn.Dense(3 * self.hidden)
        if self.conditioning:
            self.previous_gates = nn.Dense(3 * self.hidden, use_bias=False)
        self.head = GaussianHead(self.latent)
        if self.boundary_head:
            self.boundary = nn.Dense(1)

    def initial(self, batch: tuple[int, ...]) -> BeliefState:
        """State before the first observation: no history, standard normal beliefs."""
        standard = Gaussian.standard((*batch, self.latent))
        return BeliefState(jnp.zeros((*batch, self.hidden)), standard, standard, jnp.full(batch, -jnp.inf))

    def embed(self, observation: Array, action: Array, reward: Array) -> Array:
        """Gate inputs of (s_t, a_{t-1}, r_{t-1}): [..., O], [..., A] (encoded), [...] -> [..., 3 G]."""
        x = jnp.concatenate([observation, action, reward[..., None]], axis=-1)
        return self.input_gates(nn.relu(self.input(x)))

    def step(self, state: BeliefState, inputs: Array) -> BeliefState:
        """One step: `inputs` from `embed`, [..., 3 G]."""
        if self.conditioning:
            previous = jnp.concatenate([state.previous.mean, state.previous.log_variance], axis=-1)
            inputs = inputs + self.previous_gates(previous)
        reset_in, update_in, new_in = jnp.split(inputs, 3, axis=-1)
        reset_h, update_h, new_h = jnp.split(self.recurrent_gates(state.hidden), 3, axis=-1)
        update = nn.sigmoid(update_in + update_h)
        new = jnp.tanh(new_in + nn.sigmoid(reset_in + reset_h) * new_h)
        hidden = new + update * (state.hidden - new)
        logit = state.boundary_logit
        previous_belief = state.previous
        if self.boundary_head:
            logit = self.boundary(hidden)[..., 0]
            at_boundary = (logit > 0.0)[..., None]  # P(d) > 1/2
            previous_belief = jax.tree.map(
                lambda ended, kept: jnp.where(at_boundary, ended, kept), state.belief, state.previous
            )
        return BeliefState(hidden, self.head(hidden), previous_belief, logit)

    def __call__(self, state: BeliefState, observation: Array, action: Array, reward: Array) -> BeliefState:
        """Embed and step at once, as when acting."""
        return self.step(state, self.embed(observation, action, reward))


class BeliefModel(nn.Module):
    """Encoder, decoders and latent dynamics prior: the networks of the ELBO.

    Attributes:
        encoder: the inference network.
        decoder_hidden: hidden layers of the decoders.
        observation_size: O, length of an observation.
        decode_state: whether there is a next-state decoder.
        dynamics_prior: whether the prior of a session depends on the previous session.
    """

    encoder: Encoder
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
        x = jnp.concatenate([previous.mean, previous.log_variance], axis=-1)
        return self.prior_head(nn.tanh(self.prior_body(x)))

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


class ActorCritic(nn.Module):
    """Policy and value networks on normalised features, [..., F] -> (policy parameters [..., P], value [...]).

    Attributes:
        policy_hidden: hidden layers of the policy.
        value_hidden: hidden layers of the critic.
        actions: policy outputs, logits or means.
        continuous: whether there is a learnt log-deviation beside the mean.
        activation: name of the activation.
    """

    policy_hidden: Sequence[int]
    value_hidden: Sequence[int]
    actions: int
    continuous: bool
    activation: str

    @nn.compact
    def __call__(self, features: Array) -> tuple[Array, Array]:
        policy = MLP(self.policy_hidden, self.actions, self.activation, 0.01, name="policy")(features)
        if self.continuous:
            log_std = self.param("log_std", nn.initializers.zeros, (self.actions,))
            policy = jnp.concatenate([policy, jnp.broadcast_to(log_std, policy.shape)], axis=-1)
        value = MLP(self.value_hidden, 1, self.activation, name="value")(features)
        return policy, value[..., 0]
