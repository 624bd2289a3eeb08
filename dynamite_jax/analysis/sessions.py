"""Behaviour around switches: returns of sessions, recovery, and boundaries that the agent predicted."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from dynamite_jax.beliefs import elbo
from dynamite_jax.runtime import loggers

RECOVERED = 0.9  # share of the lost reward that has to be regained
DETECTION_WINDOW = 3  # steps by which a boundary may be predicted late


def session_returns(reward: np.ndarray, session: np.ndarray) -> list[loggers.Record]:
    """Return and mean reward per step by session index, over all seeds and episodes that reach the session.

    Args:
        reward: [seeds, H, N].
        session: [seeds, H, N], -1 after the end of an episode.
    """
    rows = []
    for index in range(int(session.max()) + 1):
        inside = session == index
        reached = inside.any(1)
        total = np.where(inside, reward, 0.0).sum(1)[reached]
        rows.append(
            {
                "session": index,
                "return": float(total.mean()),
                "reward_per_step": float(reward[inside].mean()),
                "episodes": int(reached.sum()),
            }
        )
    return rows


def recovery(reward: np.ndarray, session: np.ndarray) -> loggers.Record:
    """How fast reward comes back after a switch.

    Args:
        reward: [seeds, H, N].
        session: [seeds, H, N], -1 after the end of an episode, which is no switch.

    Returns:
        `before`: mean reward of the step before a switch. `curve`: mean reward k steps after it, over the
        sessions that are that long, while there are a hundred of them. `steps`: the first k at which the curve has
        regained `RECOVERED` of the loss; None if it never does or there is no switch.
    """
    switch = (session[:, 1:] != session[:, :-1]) & (session[:, 1:] >= 0)
    if not switch.any():
        return {"before": None, "curve": [], "steps": None}
    before = float(reward[:, :-1][switch].mean())
    start = np.zeros_like(session)
    start[:, 1:][switch] = 1
    step = np.arange(session.shape[1])[None, :, None]
    since = step - np.maximum.accumulate(np.where(start == 1, step, -session.shape[1]), axis=1)
    after_a_switch = session > 0
    curve = []
    for k in range(session.shape[1]):
        values = reward[after_a_switch & (since == k)]
        if len(values) < 100:
            break
        curve.append(float(values.mean()))
    if not curve:
        return {"before": before, "curve": [], "steps": None}
    threshold = curve[0] + RECOVERED * (before - curve[0])
    steps = next((k for k, value in enumerate(curve) if value >= threshold), None)
    return {"before": before, "curve": curve, "steps": steps}


def detection(predicted: np.ndarray, session: np.ndarray, alignment: str) -> loggers.Record:
    """Precision and recall of the boundaries that the agent acted by.

    Args:
        predicted: predicted boundaries, [seeds, H, N].
        session: [seeds, H, N], -1 after the end of an episode, where nothing counts.
        alignment: meaning of a boundary, see `elbo.boundary_labels`.

    Returns:
        `exact` counts a hit on the same step only; `late` also one up to `DETECTION_WINDOW` steps after. A boundary
        between two steps without information can't be detected, so recall below 1 is no error by itself.
    """
    label = np.asarray(jax.vmap(partial(elbo.boundary_labels, alignment=alignment))(jnp.asarray(session))) > 0.5
    label, predicted = label & (session >= 0), predicted & (session >= 0)
    result = {}
    for name, window in (("exact", 0), ("late", DETECTION_WINDOW)):
        hit = _recent(label, window) & predicted
        recalled = _recent(predicted[:, ::-1], window)[:, ::-1] & label
        result[name] = {
            "precision": float(hit.sum() / predicted.sum()) if predicted.any() else None,
            "recall": float(recalled.sum() / label.sum()) if label.any() else None,
        }
    return result


def _recent(mark: np.ndarray, window: int) -> np.ndarray:
    """Whether there is a mark at the step or up to `window` steps before it, [seeds, H, N]."""
    recent = mark.copy()
    for lag in range(1, window + 1):
        recent[:, lag:] |= mark[:, :-lag]
    return recent
