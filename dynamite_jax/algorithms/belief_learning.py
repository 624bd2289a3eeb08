"""Steps of a belief by its own loss, on episodes that are at hand."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from flax import struct

from dynamite_jax.algorithms.algorithm import Metrics
from dynamite_jax.algorithms.optimisation import chosen_episodes, optimiser
from dynamite_jax.beliefs.belief import Belief
from dynamite_jax.config import VAEConfig
from dynamite_jax.data.types import Array, Params, Trajectories


class Learner(struct.PyTreeNode):
    """A belief model that learns: `acting`, the running average of `params` that acts, and Adam's state."""

    acting: Params
    params: Params
    adam: optax.OptState


def improved(
    learner: Learner,
    belief: Belief,
    data: Trajectories,
    *,
    draw: Callable[[Array], Array],
    lr: Array,
    hyper: VAEConfig,
    key: Array,
) -> tuple[Learner, Metrics]:
    """Some epochs of the belief's loss.

    Args:
        learner: before.
        belief: whose loss it is.
        data: episodes as the belief gets them, [H(+1), N, ...].
        draw: key -> numbers of the episodes of an epoch, [count]; minibatches divide them.
        lr: Adam's step size.
        hyper: weights, epochs and minibatches.
        key: of what is drawn.

    Returns:
        The learner after them, and the means of the loss's terms.
    """
    optimise = optimiser(lr, hyper.max_grad_norm)
    grad = jax.grad(belief.loss, has_aux=True)

    def minibatch(carry: tuple, chosen_and_key: tuple[Array, Array]) -> tuple[tuple, Metrics]:
        params, adam = carry
        chosen, key = chosen_and_key
        gradient, terms = grad(params, chosen_episodes(data, chosen), key, hyper)
        change, adam = optimise.update(gradient, adam)
        return (optax.apply_updates(params, change), adam), terms

    def epoch(carry: tuple, key: Array) -> tuple[tuple, Metrics]:
        order_key, key = jax.random.split(key)
        chosen = draw(order_key).reshape(hyper.minibatches, -1)
        return jax.lax.scan(minibatch, carry, (chosen, jax.random.split(key, hyper.minibatches)))

    (params, adam), terms = jax.lax.scan(epoch, (learner.params, learner.adam), jax.random.split(key, hyper.epochs))
    rate = hyper.average_rate
    acting = jax.tree.map(lambda old, new: (1.0 - rate) * old + rate * new, learner.acting, params)
    return Learner(acting, params, adam), jax.tree.map(jnp.mean, terms)
