"""What an ideal observer knows: a particle filter that computes the reward which each context would have given."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from dynamite_envs.dlcmdp import DLCMDP
from dynamite_envs.errors import UserError
from dynamite_jax.data.types import Array
from experiments.beliefs.episodes import Episodes, facts

PROPOSED = 0.25  # share of the particles that are moved at every step as by a switch, where switches are to be inferred


def estimate(env: DLCMDP, episodes: Episodes, *, particles: int, noise: float, told: bool, key: Array) -> Array:
    """Expected `facts` before each step, given the rewards before it, [H, N, D].

    Sequential importance resampling (Gordon, Salmond and Smith, 1993). The filter is given the physical states and
    knows reward, kernel and p; rewards count as if they had an error, without which no particle would be left.

    Args:
        env: the environment, in which the context decides the reward alone.
        episodes: N of them.
        particles: contexts that are followed in each episode.
        noise: deviation of that error, in units of reward.
        told: whether it is told when contexts switch.
        key: of all draws.

    Raises:
        UserError: the context moves the body, whose states would tell of it, too.
    """
    if env.decode_state:
        raise UserError("env is one whose context changes the dynamics; the filter reads contexts off rewards alone")
    data = episodes.trajectories
    following = jnp.concatenate([data.session[1:], data.session[-1:]])
    keys = jax.random.split(key, data.reward.shape[1])
    inputs = (episodes.physics, data.action, data.reward, data.valid, following != data.session, keys)
    one = partial(_filter, env, particles, noise, told)
    return jax.jit(jax.vmap(one, in_axes=(1, 1, 1, 1, 1, 0), out_axes=1))(*inputs)


def _filter(
    env: DLCMDP,
    particles: int,
    noise: float,
    told: bool,
    physics: Any,
    action: Array,
    reward: Array,
    valid: Array,
    switched: Array,
    key: Array,
) -> Array:
    """One episode: [H, ...] each, whether the context switches after the step -> [H, D]."""
    unused = jax.random.key(0)  # rewards are no draws

    def contexts_of(key: Array, contexts: Any) -> Any:
        return jax.vmap(env.next_context)(jax.random.split(key, particles), contexts)

    def step(carry: tuple[Any, Array], inputs: tuple) -> tuple[tuple[Any, Array], Array]:
        contexts, log_weight = carry
        physics, action, reward, valid, switched, key = inputs
        expected = jax.nn.softmax(log_weight) @ jax.vmap(partial(facts, env, physics))(contexts)
        predicted = jax.vmap(lambda context: env.dynamics(physics, context, action, unused)[1])(contexts)
        log_weight -= jnp.asarray(jnp.where(valid, 0.5 * ((predicted - reward) / noise) ** 2, 0.0))

        resample_key, move_key, next_key = jax.random.split(key, 3)
        weight = jax.nn.softmax(log_weight)
        resampled = (1.0 / jnp.sum(weight**2) < particles / 2) | (told & switched)
        chosen = jnp.where(resampled, systematic(resample_key, weight), jnp.arange(particles))
        contexts = jax.tree.map(lambda x: x[chosen], contexts)
        log_weight = jnp.where(resampled, 0.0, log_weight)
        if told:
            moved = jnp.broadcast_to(switched, (particles,))
        else:  # more of them are moved than switches do, and weigh less
            moved = jax.random.bernoulli(move_key, PROPOSED, (particles,))
            log_weight += jnp.where(moved, jnp.log(env.p / PROPOSED), jnp.log((1.0 - env.p) / (1.0 - PROPOSED)))
        fresh = contexts_of(next_key, contexts)
        contexts = jax.tree.map(
            lambda new, old: jnp.where(moved.reshape(-1, *[1] * (new.ndim - 1)), new, old), fresh, contexts
        )
        return (contexts, log_weight), expected

    key, first_key = jax.random.split(key)
    start = jax.vmap(env.init_context)(jax.random.split(first_key, particles)), jnp.zeros(particles)
    keys = jax.random.split(key, len(reward))
    return jax.lax.scan(step, start, (physics, action, reward, valid, switched, keys))[1]


def systematic(key: Array, weight: Array) -> Array:
    """Indices of as many particles as there are, each about as often as its weight says, [P] -> [P]."""
    count = len(weight)
    positions = (jnp.arange(count) + jax.random.uniform(key)) / count
    return jnp.minimum(jnp.searchsorted(jnp.cumsum(weight), positions), count - 1)
