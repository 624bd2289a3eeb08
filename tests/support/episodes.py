"""A small environment, random episodes of it in which sessions come in every shape, and a belief over them."""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from dynamite_envs.dlcmdp import FiniteDLCMDP
from dynamite_envs.spaces import Box, Discrete
from dynamite_jax.agents import running_statistics
from dynamite_jax.beliefs.latent import LatentBelief
from dynamite_jax.config import Config, NetworkConfig, VAEConfig
from dynamite_jax.data.types import Trajectories

# One trajectory of 7 steps a row: ragged, ones inside, one session, every step its own, first and last of one step.
SESSION = np.array(
    [[0, 0, 0, 1, 1, 2, 2], [0, 0, 1, 2, 2, 2, 3], [0] * 7, list(range(7)), [0, 1, 1, 1, 1, 1, 2]], np.int32
).T
HORIZON, BATCH = SESSION.shape
LATENT = 2
NETWORK = NetworkConfig(latent=LATENT, hidden=6, embedding=5, decoder_hidden=(7, 4), policy_hidden=(4,))
# Weights that are all different, so that no term can be mistaken for another.
WEIGHTS = VAEConfig(
    reward_weight=0.7,
    state_weight=0.3,
    kl_weight=0.11,
    consistency_weight=0.4,
    boundary_weight=0.9,
    boundary_rate=0.2,
    boundary_noise=0.6,
    decode_terms=0,
)


class Drift(FiniteDLCMDP):
    """A point pushed by the action and by a context that also changes the sign of the reward."""

    discrete: bool = struct.field(pytree_node=False, default=False)
    decodes: bool = struct.field(pytree_node=False, default=True)

    @property
    def observation_size(self):
        return 2

    @property
    def action_space(self):
        return Discrete(3) if self.discrete else Box(2)

    @property
    def decode_state(self):
        return self.decodes

    def init_physics(self, key):
        return jax.random.normal(key, (2,))

    def dynamics(self, physics, context, action, key):
        sign = 2.0 * context - 1.0
        physics = 0.9 * physics + 0.3 * sign + 0.1 * jnp.sum(action)
        return physics, sign * physics[0], jnp.zeros((), bool)

    def observe(self, physics):
        return physics


def drift(discrete=False, decodes=True) -> Drift:
    uniform = jnp.full((2, 2), 0.5)
    return Drift(p=0.4, horizon=HORIZON, initial=uniform[0], kernel=uniform, discrete=discrete, decodes=decodes)


def scattered(shapes, scale=0.5, seed=0):
    """Normal numbers in the shapes of a pytree; the clip of log-variances stays out of reach."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: jnp.asarray(scale * rng.normal(size=x.shape), jnp.float32), shapes)


# Where each trajectory ends at a step of its own: at the end of a session, in one, behind its first step.
VALID = np.arange(HORIZON)[:, None] < np.array([5, 4, 3, 6, 1])


def trajectories(discrete=False, session=SESSION, valid=None) -> Trajectories:
    """Random episodes; continuous actions go beyond what the environment executes. They are as random behind an end."""
    rng = np.random.default_rng(1)
    action = rng.integers(0, 3, (HORIZON, BATCH)) if discrete else 1.5 * rng.normal(size=(HORIZON, BATCH, 2))
    return Trajectories(
        observation=jnp.asarray(rng.normal(size=(HORIZON + 1, BATCH, 2)), jnp.float32),
        action=jnp.asarray(action, jnp.int32 if discrete else jnp.float32),
        reward=jnp.asarray(rng.normal(size=(HORIZON, BATCH)), jnp.float32),
        session=jnp.asarray(session),
        valid=jnp.ones(SESSION.shape, bool) if valid is None else jnp.asarray(valid),
    )


def behind_the_end(data: Trajectories, number: float) -> Trajectories:
    """The same trajectories, with other sessions, and a number for all else that was recorded behind their ends."""
    reached = jnp.concatenate([jnp.ones_like(data.valid[:1]), data.valid])
    return data.replace(
        observation=jnp.where(reached[..., None], data.observation, number),
        action=jnp.where(
            data.valid.reshape(*data.valid.shape, *[1] * (data.action.ndim - 2)),
            data.action,
            jnp.asarray(number, data.action.dtype),
        ),
        reward=jnp.where(data.valid, data.reward, number),
        session=jnp.where(data.valid, data.session, jnp.arange(HORIZON)[:, None] // 2),
    )


def statistics(features, observation):
    """Running statistics in which no mean is 0 and no deviation 1."""
    state, rng = running_statistics.init(features, observation), np.random.default_rng(0)
    samples = (jnp.asarray(rng.normal(0.3, 0.5, (1, 9, *x.value.shape)), jnp.float32) for x in state.mean)
    return update(state, running_statistics.Quantities(*samples), jnp.ones((1, 9), bool))


def update(statistics, batch, valid):
    """Running statistics after a batch of all quantities."""
    return running_statistics.counted(running_statistics.merge(statistics, valid, **batch._asdict()), valid)


def to_numpy(tree):
    return jax.tree.map(lambda x: np.asarray(x, float), tree)


def build(
    hyper: VAEConfig = WEIGHTS, env: Drift | None = None, encoder: Literal["gru", "transformer"] = "gru"
) -> tuple[LatentBelief, dict]:
    """A belief and parameters with no zero in them, biases included."""
    network = dataclasses.replace(NETWORK, encoder=encoder, heads=2)
    belief = LatentBelief.build(Config(network=network, vae=hyper), env or drift())
    return belief, scattered(jax.eval_shape(belief.init, jax.random.key(0)))
