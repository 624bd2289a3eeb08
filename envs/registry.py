"""Name -> environment. A new environment is one module and one line here."""

import dataclasses
import difflib
import inspect
import math
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

from envs import gridworld, point_robot, probes
from envs.dlcmdp import DLCMDP, FiniteDLCMDP

MAKERS: dict[str, Callable[..., DLCMDP]] = {
    "gridworld": gridworld.make,
    "point_robot": point_robot.make,
    "probe_context_reward": probes.context_reward,
    "probe_match": probes.match,
    "probe_memory": probes.memory,
    "probe_next_context": probes.next_context,
    "probe_static": probes.static,
    "probe_pomdp": probes.pomdp,
}


def nearest(name: str, names) -> str:
    """The end of an error line: what is allowed, nearest name first."""
    close = difflib.get_close_matches(name, list(names), n=1, cutoff=0.4)
    return (f"did you mean {close[0]!r}? " if close else "") + f"allowed: {', '.join(names)}"


def make(name: str, **options: Any) -> DLCMDP:
    """Build an environment.

    Args:
        name: one of `MAKERS`.
        **options: fields of the environment (`p`, `horizon`, `kernel`, ...) or arguments of its maker.

    Returns:
        The environment, its numbers as float32 arrays.

    Raises:
        ValueError: an unknown name or option, or a value that can't be one; one line that names it.
    """
    if name not in MAKERS:
        raise ValueError(f"env: unknown environment {name!r}; {nearest(name, MAKERS)}")
    maker = MAKERS[name]
    own = [q.name for q in inspect.signature(maker).parameters.values() if q.kind is not q.VAR_KEYWORD]
    fields = {f.name: f for f in dataclasses.fields(maker())}
    for key in options:
        if key not in own and key not in fields:
            raise ValueError(f"env_options: {name} has no option {key!r}; {nearest(key, [*own, *fields])}")
    try:
        env = maker(**options)
        env = env.replace(
            **{
                key: jnp.asarray(getattr(env, key), jnp.float32)
                for key, field in fields.items()
                if field.metadata.get("pytree_node", True)
            }
        )
    except (TypeError, ValueError) as error:
        raise ValueError(f"env_options: {name} can't be made from {options}: {error}") from None
    _check(name, env, maker())
    return env


def _check(name: str, env: DLCMDP, default: DLCMDP) -> None:
    """Refuse values that aren't probabilities, sizes that don't fit, and anything not finite."""
    if not isinstance(env.horizon, int) or isinstance(env.horizon, bool) or env.horizon < 1:
        raise ValueError(f"env_options: horizon of {name} is {env.horizon!r}; it must be a whole number of at least 1")
    for field in dataclasses.fields(env):
        value = getattr(env, field.name)
        if not field.metadata.get("pytree_node", True):
            expected = type(getattr(default, field.name))
            if type(value) is not expected:
                raise ValueError(
                    f"env_options: {field.name} of {name} is {value!r}; it must be of type {expected.__name__}"
                )
            continue
        if not np.all(np.isfinite(value)):
            raise ValueError(f"env_options: {field.name} of {name} is {value}; it must be finite")
    p = np.asarray(env.p)
    if p.ndim or not 0.0 <= p <= 1.0:
        raise ValueError(f"env_options: p of {name} is {p}; it must be a probability, 0 to 1")
    if isinstance(env, FiniteDLCMDP):
        n = len(np.asarray(env.initial))
        for key, shape in (("initial", (n,)), ("kernel", (n, n))):
            value = np.asarray(getattr(env, key))
            if value.shape != shape or np.any(value < 0) or not np.allclose(value.sum(-1), 1.0, atol=1e-5):
                said = f"{key} of {name} is {value.tolist()}"
                raise ValueError(
                    f"env_options: {said}; each row must hold {math.prod(shape[-1:])} probabilities that sum to 1"
                )
