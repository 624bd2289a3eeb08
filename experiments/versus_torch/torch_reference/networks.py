"""The networks of the belief and of the policy, the same functions as those of `dynamite_jax.networks`."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch  # pyright: ignore[reportMissingImports]
from torch import Tensor, nn  # pyright: ignore[reportMissingImports]

ACTIVATIONS = {"tanh": torch.tanh, "relu": torch.relu, "silu": nn.functional.silu}
LOG_VARIANCE_RANGE = (-10.0, 4.0)


class BeliefState(NamedTuple):
    """State of the encoder: recurrent state [E, G], belief and last session's belief [E, 2 L], logit [E]."""

    hidden: Tensor
    belief: Tensor
    previous: Tensor
    boundary_logit: Tensor


def dense(inputs: int, outputs: int, gain: float = 1.0, bias: bool = True) -> nn.Linear:
    """A linear layer whose weights are normal with variance gain / inputs, cut at two deviations."""
    layer = nn.Linear(inputs, outputs, bias)
    deviation = math.sqrt(gain / inputs) / 0.87962566103423978  # of a normal cut at two deviations
    nn.init.trunc_normal_(layer.weight, std=deviation, a=-2 * deviation, b=2 * deviation)
    if bias:
        nn.init.zeros_(layer.bias)
    return layer


class MLP(nn.Module):
    """Dense layers with an activation between them and a linear last layer, [..., I] -> [..., O]."""

    def __init__(
        self, inputs: int, hidden: Sequence[int], outputs: int, *, activation: str = "relu", scale: float = 1.0
    ):
        super().__init__()
        sizes = [inputs, *hidden]
        body = [dense(a, b, gain=2.0) for a, b in zip(sizes, sizes[1:], strict=False)]
        self.layers = nn.ModuleList([*body, dense(sizes[-1], outputs, gain=scale**2)])
        self.activation = ACTIVATIONS[activation]

    def forward(self, x: Tensor) -> Tensor:
        *body, end = self.layers
        for layer in body:
            x = self.activation(layer(x))
        return end(x)


def bounded(belief: Tensor) -> Tensor:
    """Means as they are, log-variances kept in their range, [..., 2 L]."""
    mean, log_variance = belief.chunk(2, dim=-1)
    return torch.cat([mean, log_variance.clamp(*LOG_VARIANCE_RANGE)], dim=-1)


class Encoder(nn.Module):
    """Recurrent inference network; it takes the previous session's belief as an input where `conditioning` is on."""

    def __init__(self, inputs: int, network: Any, *, conditioning: bool, boundary_head: bool):
        super().__init__()
        self.units, self.latent = network.hidden, network.latent
        self.conditioning, self.boundary_head = conditioning, boundary_head
        self.input = dense(inputs, network.embedding)
        self.input_gates = dense(network.embedding, 3 * network.hidden)
        self.recurrent_gates = dense(network.hidden, 3 * network.hidden)
        if conditioning:
            self.previous_gates = dense(2 * network.latent, 3 * network.hidden, bias=False)
        self.head = dense(network.hidden, 2 * network.latent)
        if boundary_head:
            self.boundary = dense(network.hidden, 1)

    def initial(self, batch: int) -> BeliefState:
        """The state before any history, with standard normal beliefs."""
        like = self.input.weight
        standard = like.new_zeros(batch, 2 * self.latent)
        return BeliefState(
            hidden=like.new_zeros(batch, self.units),
            belief=standard,
            previous=standard,
            boundary_logit=like.new_full((batch,), -math.inf),
        )

    def embed(self, evidence: Tensor) -> Tensor:
        """Gate inputs of (s_t, a_{t-1}, r_{t-1}), [..., I] -> [..., 3 G]."""
        return self.input_gates(torch.relu(self.input(evidence)))

    def step(self, state: BeliefState, gates: Tensor) -> BeliefState:
        """One step, gate inputs [E, 3 G]."""
        if self.conditioning:
            gates = gates + self.previous_gates(state.previous)
        recurrent = self.recurrent_gates(state.hidden)
        units = self.units
        reset_update = torch.sigmoid(gates[:, : 2 * units] + recurrent[:, : 2 * units])
        new = torch.tanh(gates[:, 2 * units :] + reset_update[:, :units] * recurrent[:, 2 * units :])
        hidden = torch.lerp(new, state.hidden, reset_update[:, units:])
        belief = bounded(self.head(hidden))
        if not self.boundary_head:
            return state._replace(hidden=hidden, belief=belief)
        logit = self.boundary(hidden)[:, 0]
        previous = torch.where(logit[:, None] > 0, state.belief, state.previous)
        return BeliefState(hidden=hidden, belief=belief, previous=previous, boundary_logit=logit)

    def encode(self, evidence: Tensor) -> tuple[Tensor, Tensor | None]:
        """Beliefs [H, B, 2 L] and boundary logits [H, B] at all steps of episodes, from evidence [H, B, I].

        Where nothing depends on predicted boundaries the recurrence is one call of the library's GRU.
        """
        if self.conditioning:
            hidden, belief = self._conditioned(self.embed(evidence))
        else:
            hidden = self._fused(torch.relu(self.input(evidence)))
            belief = bounded(self.head(hidden))
        return belief, self.boundary(hidden)[..., 0] if self.boundary_head else None

    def _fused(self, inputs: Tensor) -> Tensor:
        start = inputs.new_zeros(1, inputs.shape[1], self.units)
        weights = [
            self.input_gates.weight,
            self.recurrent_gates.weight,
            self.input_gates.bias,
            self.recurrent_gates.bias,
        ]
        return torch.gru(inputs, start, weights, True, 1, 0.0, self.training, False, False)[0]

    def _conditioned(self, gates: Tensor) -> tuple[Tensor, Tensor]:
        state = self.initial(gates.shape[1])
        hidden, belief = [], []
        for row in gates.unbind():
            state = self.step(state, row)
            hidden.append(state.hidden)
            belief.append(state.belief)
        return torch.stack(hidden), torch.stack(belief)


class BeliefModel(nn.Module):
    """Encoder, decoders and latent dynamics prior."""

    def __init__(self, config: Any, observation: int, action: int, *, decode_state: bool):
        super().__init__()
        vae, network = config.vae, config.network
        inputs = observation + action + 1
        self.encoder = Encoder(inputs, network, conditioning=vae.conditioning, boundary_head=vae.boundary_head)
        self.reward_decoder = MLP(2 * observation + action + network.latent, network.decoder_hidden, 1)
        self.decode_state = decode_state
        if decode_state:
            self.state_decoder = MLP(observation + action + network.latent, network.decoder_hidden, observation)
        if vae.conditioning:
            self.prior_body, self.prior_head = dense(2 * network.latent, 32), dense(32, 2 * network.latent)

    def prior(self, previous: Tensor) -> Tensor:
        """p(z^i | z^{i-1}) from the final belief of the previous session, [..., 2 L]."""
        return bounded(self.prior_head(torch.tanh(self.prior_body(previous))))


class ActorCritic(nn.Module):
    """Policy parameters [..., P] and value [...] of normalised features [..., F]."""

    def __init__(self, network: Any, features: int, actions: int, *, continuous: bool):
        super().__init__()
        self.policy = MLP(features, network.policy_hidden, actions, activation=network.activation, scale=0.01)
        self.value = MLP(features, network.value_hidden, 1, activation=network.activation)
        if continuous:
            self.log_std = nn.Parameter(torch.full((actions,), math.log(network.action_deviation)))
        self.continuous = continuous

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        policy = self.policy(features)
        if self.continuous:
            policy = torch.cat([policy, self.log_std.expand_as(policy)], dim=-1)
        return policy, self.value(features)[..., 0]
