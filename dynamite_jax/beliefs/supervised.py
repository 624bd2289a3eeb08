"""Task inference (Humplik et al., 2019): a recurrent belief that learns from the true context.

The context is privileged: training alone knows it, and of training only the loss of the belief. In every step a head
says how likely each context is, by a softmax where contexts are finite and by a diagonal Gaussian where they are not.
"""

import math
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from dynamite_envs.dlcmdp import DLCMDP, Context, FiniteDLCMDP
from dynamite_jax.beliefs.belief import Belief
from dynamite_jax.beliefs.history import HistoryBelief
from dynamite_jax.config import Config, VAEConfig
from dynamite_jax.data import masked
from dynamite_jax.data.types import Array, Gaussian, Params, Trajectories
from dynamite_jax.networks.gru import GRU
from dynamite_jax.networks.mlp import GaussianHead

LEAST = -10.0  # log-probability below which the policy is not told how unlikely a context is
DRAWS = 4096  # first contexts whose mean and deviation are the units of continuous ones


class ContextGRU(GRU):
    """A recurrent network over the history, and what it says of the context.

    Attributes:
        head: from the recurrent state.
    """

    head: nn.Module

    def infer(self, hidden: Array) -> Any:
        """The head of a recurrent state, [..., G]."""
        return self.head(hidden)

    def __call__(self, hidden: Array, observation: Array, action: Array, reward: Array) -> Array:
        """Touch every layer once; only `init` calls this."""
        hidden = super().__call__(hidden, observation, action, reward)
        self.infer(hidden)
        return hidden


class Inferred(struct.PyTreeNode):
    """What is carried from step to step.

    Attributes:
        hidden: recurrent state, [..., G].
        context: distribution of the context, log-probabilities [..., n] or a Gaussian of [..., C].
    """

    hidden: Array
    context: Any


@dataclass(frozen=True)
class SupervisedBelief(Belief):
    """Learns to say what the context of the next step is; a subclass knows the kind of distribution.

    Attributes:
        memory: the recurrent network over the history, a `ContextGRU`.
    """

    memory: HistoryBelief

    learns = True

    def distribution(self, head: Any) -> Any:
        """Of the context, from what the head gives."""
        raise NotImplementedError  # a subclass gives it

    def log_likelihood(self, context: Any, label: Array) -> Array:
        """Of labels [..., *label] under distributions [..., ...] of the context, [...]."""
        raise NotImplementedError  # a subclass gives it

    def init(self, key: Array) -> Params:
        """Parameters of memory and head."""
        return self.memory.init(key)

    def _infer(self, params: Params, hidden: Array) -> Inferred:
        """The state that a recurrent state makes."""
        head: Any = self.memory.network.apply(params, hidden, method="infer")
        return Inferred(hidden, self.distribution(head))

    def update(self, params: Params, state: Inferred, observation: Array, action: Array, reward: Array) -> Inferred:
        """One step of the network: [E, O], [E, ...], [E]."""
        return self._infer(params, self.memory.update(params, state.hidden, observation, action, reward))

    def encode(self, params: Params, data: Trajectories) -> Inferred:
        """States at the steps of episodes, [H, B, ...], exactly as when acting."""
        return self._infer(params, self.memory.encode(params, data))

    def loss(self, params: Params, data: Trajectories, key: Array, hyper: VAEConfig) -> tuple[Array, dict[str, Array]]:
        """Negative log-likelihood of the context of each step, averaged over the valid steps of all trajectories.

        Args:
            params: of memory and head.
            data: episodes with their contexts, [H(+1), B, ...], finite after their ends too.
            key: not needed, nothing is drawn.
            hyper: not needed, there is nothing to weigh.
        """
        loss = -masked.mean(self.log_likelihood(self.encode(params, data).context, data.context), data.valid)
        return loss, {"loss": loss}


@dataclass(frozen=True)
class FiniteBelief(SupervisedBelief):
    """Probabilities of the contexts of a `FiniteDLCMDP`.

    Attributes:
        contexts: n.
    """

    contexts: int

    def label(self, env: DLCMDP, context: Context) -> Array:
        """The index of the context, []."""
        return context

    def initial(self, batch: tuple[int, ...]) -> Inferred:
        """No history, contexts alike: [*batch, G] and [*batch, n]."""
        return Inferred(self.memory.initial(batch), jnp.full((*batch, self.contexts), -math.log(self.contexts)))

    def features(self, state: Inferred) -> Array:
        """Inputs of the policy: log-probabilities, those below `LEAST` alike, [E, n]."""
        return jnp.maximum(state.context, LEAST)

    def distribution(self, head: Array) -> Array:
        """Log-probabilities of the contexts, [..., n]."""
        return jax.nn.log_softmax(head)

    def log_likelihood(self, context: Array, label: Array) -> Array:
        """Log-probability of the context, [..., n] and [...] -> [...]."""
        return jnp.take_along_axis(context, label[..., None], axis=-1)[..., 0]


@dataclass(frozen=True)
class ContinuousBelief(SupervisedBelief):
    """A diagonal Gaussian of the context as `ObserveContext` shows it, in deviations of first contexts from their mean.

    Attributes:
        mean: of each number of the context, C of them.
        deviation: likewise; 1 where a number never varies.
    """

    mean: tuple[float, ...]
    deviation: tuple[float, ...]

    def label(self, env: DLCMDP, context: Context) -> Array:
        """The features of the context in deviations, [C]."""
        return (env.context_features(context) - jnp.array(self.mean)) / jnp.array(self.deviation)

    def initial(self, batch: tuple[int, ...]) -> Inferred:
        """No history, a standard normal: [*batch, G] and [*batch, C]."""
        return Inferred(self.memory.initial(batch), Gaussian.standard((*batch, len(self.mean))))

    def features(self, state: Inferred) -> Array:
        """Inputs of the policy: mean and log-variance, [E, 2 C]."""
        return state.context.features

    def distribution(self, head: Gaussian) -> Gaussian:
        """That of the head, [..., C]."""
        return head

    def log_likelihood(self, context: Gaussian, label: Array) -> Array:
        """Log-density of the context, [..., C] twice -> [...]."""
        squared = (label - context.mean) ** 2 * jnp.exp(-context.log_variance)
        return -0.5 * (squared + context.log_variance + math.log(2.0 * math.pi)).sum(-1)


def build(config: Config, env: DLCMDP) -> SupervisedBelief:
    """A memory of the same size as the encoder of other beliefs, with the head that the contexts ask for."""

    def memory(head: nn.Module) -> HistoryBelief:
        network = ContextGRU(config.network.hidden, config.network.embedding, head)
        return HistoryBelief(network, config.network.hidden, env.action_space, env.observation_size)

    if isinstance(env, FiniteDLCMDP):
        contexts = env.initial.shape[-1]
        return FiniteBelief(memory(nn.Dense(contexts)), contexts)

    def first_context(key: Array) -> Array:
        return env.context_features(env.init_context(key))

    drawn = np.asarray(jax.vmap(first_context)(jax.random.split(jax.random.key(0), DRAWS)), float)
    mean, deviation = drawn.mean(0), drawn.std(0)
    deviation = np.where(deviation > 1e-6 * np.maximum(1.0, np.abs(mean)), deviation, 1.0)
    return ContinuousBelief(memory(GaussianHead(mean.size)), tuple(mean.tolist()), tuple(deviation.tolist()))
