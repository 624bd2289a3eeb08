"""The objective of the belief model: a session-aware evidence lower bound, in pieces that are pure functions.

For each step t with S(t) the steps of its session i (Liang et al., 2024, for the parts; the exact form is ours):

    L_t = E_{z ~ q_t} sum_{j in S(t)} [log p(r_j | s_j, a_j, s_{j+1}, z) + w_s log p(s_{j+1} | s_j, a_j, z)]
          - w_kl KL(q_t || prior of the session)
          - beta max(KL(q_{t+1} || sg q_end) - KL(q_t || sg q_end), 0)        t, t + 1 in one session
          - w_d BCE(d_t, predicted d_t)

Arrays are time-major: H steps, or T of them where the sum is subsampled; B trajectories; L numbers of the latent.
Likelihoods are Gaussian with unit variance: up to a constant, half the squared error.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Float, Int, Key

from dynamite_jax.data.types import Array, Gaussian


def kl(q: Float[Gaussian, "*batch L"], p: Float[Gaussian, "*batch L"]) -> Float[Array, "*batch"]:
    """KL(q || p) of diagonal Gaussians, in nats."""
    difference = p.log_variance - q.log_variance
    quadratic = jnp.exp(-difference) + (q.mean - p.mean) ** 2 * jnp.exp(-p.log_variance)
    return 0.5 * jnp.sum(difference + quadratic - 1.0, axis=-1)


class SessionBounds(NamedTuple):
    """First and last step of each step's session."""

    first: Int[Array, "H B"]
    last: Int[Array, "H B"]


def session_bounds(session: Int[Array, "H B"]) -> SessionBounds:
    """First and last step of each step's session, from the indices of sessions.

    Sessions are runs of one index, so both are running extrema of the places where the index changes.
    """
    horizon = session.shape[0]
    step = jnp.arange(horizon)[:, None]
    changes = session[1:] != session[:-1]
    edge = jnp.ones((1, *session.shape[1:]), bool)
    first = jax.lax.cummax(jnp.where(jnp.concatenate([edge, changes]), step, 0), axis=0)
    last = jax.lax.cummin(jnp.where(jnp.concatenate([changes, edge]), step, horizon - 1), axis=0, reverse=True)
    return SessionBounds(first, last)


def gather_steps(tree: Any, index: Int[Array, "T B"]) -> Any:
    """Rows of time-major leaves at `index` [T, B]: [H, B, ...] -> [T, B, ...]."""
    batch = jnp.arange(index.shape[1])
    return jax.tree.map(lambda x: x[index, batch], tree)


def decode_steps(
    key: Key[Array, ""], first: Int[Array, "T B"], last: Int[Array, "T B"], terms: int
) -> Int[Array, "T B {terms}"]:
    """Steps j of each session on which to decode, drawn one from each of `terms` equal parts of it.

    The mean over them times the length of the session estimates the sum over the session without bias, at a
    fixed cost for sessions of any length.

    Args:
        key: random key.
        first: first step of the session.
        last: last step of the session.
        terms: number of draws.

    Returns:
        Indices with first <= j <= last.
    """
    length = (last - first + 1).astype(jnp.float32)[..., None]
    part = (jnp.arange(terms) + jax.random.uniform(key, (*first.shape, terms))) / terms
    return jnp.minimum(first[..., None] + (part * length).astype(jnp.int32), last[..., None])


def boundary_labels(session: Int[Array, "H B"], alignment: str) -> Float[Array, "H B"]:
    """Boundary label of each step, 0 or 1.

    The newest evidence at step t is the reward of step t - 1. `evidence` asks whether that reward came from another
    session than the one before it, which can be known at t; `action` asks whether the step to come does,
    which no evidence so far predicts beyond the rate of switches.
    """
    lag = {"evidence": 2, "action": 1}[alignment]
    changed = (session[1:] != session[:-1]).astype(jnp.float32)
    padding = jnp.zeros((lag, session.shape[1]))
    return jnp.concatenate([padding, changed])[: session.shape[0]]


def session_prior(
    belief: Float[Gaussian, "H B L"], first: Int[Array, "H B"], dynamics: Callable[[Gaussian], Gaussian] | None
) -> Float[Gaussian, "H B L"]:
    """Prior of each step's session: `dynamics` of the belief that ended the previous one.

    Args:
        belief: q_t; at the first step of a session it knows every reward of the session before, and none of its own.
        first: first step of the session.
        dynamics: p(z^i | z^{i-1}), Gaussian -> Gaussian, or None for a standard normal everywhere.
    """
    standard = Gaussian.standard(belief.mean.shape)
    if dynamics is None:
        return standard
    predicted = dynamics(gather_steps(belief, first))
    has_previous = (first > 0)[..., None]
    return jax.tree.map(lambda a, b: jnp.where(has_previous, a, b), predicted, standard)


def kl_to_prior(
    belief: Float[Gaussian, "H B L"], prior: Float[Gaussian, "H B L"], first: Int[Array, "H B"], target: str
) -> Float[Array, "H B"]:
    """KL term of each step.

    Args:
        belief: q_t.
        prior: prior of the session at each step.
        first: first step of the session.
        target: `latent_dynamics` compares every step with the session's prior; `previous_belief` compares a
            step with the belief before it, and only the first of a session with the prior (VariBAD's chain).
    """
    if target == "previous_belief":
        shifted = jax.tree.map(lambda x: jnp.concatenate([x[:1], x[:-1]]), belief)
        is_first = (first == jnp.arange(first.shape[0])[:, None])[..., None]
        prior = jax.tree.map(lambda a, b: jnp.where(is_first, a, b), prior, shifted)
    return kl(belief, prior)


def consistency(belief: Float[Gaussian, "H B L"], last: Int[Array, "H B"]) -> Float[Array, "H-1 B"]:
    """How far each step moves the belief away from the one that ends its session, in nats.

    Zero across a boundary. No gradient flows into the session's final belief as a target.
    """
    end = jax.lax.stop_gradient(gather_steps(belief, last))
    distance = kl(belief, end)
    after = kl(jax.tree.map(lambda x: x[1:], belief), jax.tree.map(lambda x: x[:-1], end))
    same_session = last[1:] == last[:-1]
    return jnp.where(same_session, jnp.maximum(after - distance[:-1], 0.0), 0.0)


def boundary_loss(logit: Float[Array, "*batch"], label: Float[Array, "*batch"]) -> Float[Array, "*batch"]:
    """Binary cross-entropy of the boundary head, in nats."""
    return optax.sigmoid_binary_cross_entropy(logit, label)
