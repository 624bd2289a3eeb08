"""Beliefs that learn from episodes, and what is read off them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax

from dynamite_envs.dlcmdp import DLCMDP
from dynamite_jax.agents import running_statistics
from dynamite_jax.algorithms.optimisation import optimiser
from dynamite_jax.beliefs.belief import Belief
from dynamite_jax.config import VAEConfig
from dynamite_jax.data.types import Array, Params, Trajectories
from dynamite_jax.networks.mlp import MLP
from experiments.beliefs.episodes import Episodes

READER, READ_UPDATES, READ_BATCH, READ_RATE, DECAY = (128, 128), 4000, 512, 3e-3, 1e-3

Loss = Callable[[Params, Array], Array]


def minimise(loss: Loss, params: Params, key: Array, *, updates: int, by: optax.GradientTransformation) -> Params:
    """Parameters after some updates; `loss(params, key)` draws its own batch."""

    def update(carry: tuple, key: Array) -> tuple[tuple, None]:
        params, state = carry
        change, state = by.update(jax.grad(loss)(params, key), state, params)
        return (optax.apply_updates(params, change), state), None

    return jax.lax.scan(update, (params, by.init(params)), jax.random.split(key, updates))[0][0]


@dataclass(frozen=True)
class Evidence:
    """Episodes as a belief gets them, in deviations from the mean of those that it learns from.

    Attributes:
        env: the environment.
        belief: the one that gets them.
        clip: bound in deviations.
        statistics: `running_statistics` of the episodes that are learnt from.
    """

    env: DLCMDP
    belief: Belief
    clip: float
    statistics: running_statistics.RunningStatistics

    @classmethod
    def of(cls, env: DLCMDP, belief: Belief, clip: float, learnt: Episodes) -> "Evidence":
        """With the statistics of the episodes that are learnt from."""
        data = learnt.trajectories
        statistics = running_statistics.merge(
            running_statistics.init(1, env.observation_size),
            data.valid,
            observation=data.observation[:-1],
            reward=data.reward,
        )
        return cls(env, belief, clip, statistics)

    def __call__(self, episodes: Episodes) -> Trajectories:
        """Normalised trajectories with the belief's labels, [H(+1), N, ...]."""

        def normalised(name: str, x: Array) -> Array:
            return running_statistics.normalise(self.statistics, name, x, clip=self.clip)

        def label(context: Array) -> Array:
            return self.belief.label(self.env, context)

        data = episodes.trajectories
        return data.replace(
            observation=normalised("observation", data.observation),
            reward=normalised("reward", data.reward),
            context=jax.vmap(jax.vmap(label))(episodes.context),
        )


def learn(belief: Belief, data: Trajectories, key: Array, *, updates: int, batch: int, hyper: VAEConfig) -> Params:
    """Parameters of a belief after `updates` of its own loss on `batch` episodes each."""
    init_key, key = jax.random.split(key)

    def loss(params: Params, key: Array) -> Array:
        chosen_key, key = jax.random.split(key)
        chosen = jax.random.randint(chosen_key, (batch,), 0, data.reward.shape[1])
        return belief.loss(params, jax.tree.map(lambda x: x[:, chosen], data), key, hyper)[0]

    rate: Any = optax.cosine_decay_schedule(hyper.lr, updates)
    return minimise(loss, belief.init(init_key), key, updates=updates, by=optimiser(rate, hyper.max_grad_norm))


def read(features: Array, facts: Array, of: Array, key: Array) -> Array:
    """Facts that a small network, as a policy is one, reads off beliefs.

    Args:
        features: of beliefs as a policy gets them, [H, N, F].
        facts: what they are about, [H, N, D].
        of: other beliefs, which the network was not fitted to, [H, M, F].
        key: of the network's parameters and batches.

    Returns:
        What is read off the latter, [H, M, D].
    """
    horizon, episodes, size = facts.shape
    center, spread = features.mean((0, 1)), features.std((0, 1)) + 1e-6
    mean, deviation = facts.mean((0, 1)), facts.std((0, 1)) + 1e-6
    reader, (init_key, key) = MLP(READER, size), jax.random.split(key)

    def told(params: Params, features: Array) -> Any:
        return reader.apply(params, jnp.clip((features - center) / spread, -5.0, 5.0))

    def loss(params: Params, key: Array) -> Array:
        steps, chosen = jax.random.randint(key, (2, READ_BATCH), 0, jnp.array([[horizon], [episodes]]))
        error = told(params, features[steps, chosen]) - (facts[steps, chosen] - mean) / deviation
        return jnp.mean(error**2)

    adam = optax.adamw(optax.cosine_decay_schedule(READ_RATE, READ_UPDATES), weight_decay=DECAY)
    params = minimise(loss, reader.init(init_key, features[0, :1]), key, updates=READ_UPDATES, by=adam)
    return mean + deviation * told(params, of)
