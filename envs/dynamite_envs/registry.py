"""Name -> environment. A new environment is one module and one line here, or one call of `register`.

Names can be listed without JAX and MuJoCo: the module of an environment is imported when it is made.
"""

from __future__ import annotations

import dataclasses
import difflib
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any

import numpy as np

from dynamite_envs.errors import UserError

if TYPE_CHECKING:
    from dynamite_envs.dlcmdp import DLCMDP


@dataclass(frozen=True)
class Maker:
    """A function that makes an environment, imported when it is asked for.

    Attributes:
        target: `module:function`.
        fixed: its first arguments, which the name of the environment settles.
    """

    target: str
    fixed: tuple[str | int, ...] = ()

    def load(self) -> Callable[..., DLCMDP]:
        """The function itself."""
        return partial(resolve_name(self.target), *self.fixed) if self.fixed else resolve_name(self.target)


MAKERS: dict[str, Maker | Callable[..., DLCMDP]] = {
    "gridworld": Maker("dynamite_envs.gridworld.env:make"),
    "gridworld_ring4": Maker("dynamite_envs.gridworld.ring:make", (4,)),
    "gridworld_ring8": Maker("dynamite_envs.gridworld.ring:make", (8,)),
    "point_robot": Maker("dynamite_envs.point_robot:make"),
    "reacher": Maker("dynamite_envs.reacher:make"),
    "halfcheetah_vel": Maker("dynamite_envs.half_cheetah:make", ("speed",)),
    "halfcheetah_dir": Maker("dynamite_envs.half_cheetah:make", ("direction",)),
    "halfcheetah_wind": Maker("dynamite_envs.half_cheetah:make", ("wind",)),
    "halfcheetah_vel_wind": Maker("dynamite_envs.half_cheetah:make", ("speed", "wind")),
    "halfcheetah_dir_wind": Maker("dynamite_envs.half_cheetah:make", ("direction", "wind")),
    "scratch_itch": Maker("dynamite_envs.scratch_itch.env:make"),
    "ant_goal": Maker("dynamite_envs.legged:make", ("ant", "goal")),
    "ant_dir": Maker("dynamite_envs.legged:make", ("ant", "direction")),
    "humanoid_dir": Maker("dynamite_envs.legged:make", ("humanoid", "direction")),
    "probe_context_reward": Maker("dynamite_envs.probes:context_reward"),
    "probe_match": Maker("dynamite_envs.probes:match"),
    "probe_memory": Maker("dynamite_envs.probes:memory"),
    "probe_next_context": Maker("dynamite_envs.probes:next_context"),
    "probe_static": Maker("dynamite_envs.probes:static"),
    "probe_pomdp": Maker("dynamite_envs.probes:pomdp"),
    "probe_termination": Maker("dynamite_envs.probes:termination"),
}

OF_PHYSICS = ("impl", "worlds")  # arguments of makers that a config sets elsewhere
FIXED = ("simulator", "varies", "contexts", "body", "hooks", "defaults", "low", "high")  # fields that its name settles


def nearest(name: str, names) -> str:
    """The end of an error line: what is allowed, nearest name first."""
    close = difflib.get_close_matches(name, list(names), n=1, cutoff=0.4)
    return (f"did you mean {close[0]!r}? " if close else "") + f"allowed: {', '.join(names)}"


def register(name: str, make: Callable[..., DLCMDP]) -> None:
    """Add an environment of one's own, from then on made by `make(name)` like any other.

    Args:
        name: new, or already that of the same function.
        make: keyword arguments, all with defaults -> environment.

    Raises:
        UserError: another environment has the name.
    """
    if MAKERS.get(name, make) != make:
        raise UserError(
            f"env is {name!r}, which is taken; to register an environment name it unlike {', '.join(MAKERS)}"
        )
    MAKERS[name] = make


def maker(name: str) -> Callable[..., DLCMDP]:
    """The function that makes the environment of a name.

    Raises:
        UserError: an unknown name; one line with the nearest.
    """
    if name not in MAKERS:
        raise UserError(f"env: unknown environment {name!r}; {nearest(name, MAKERS)}")
    entry = MAKERS[name]
    return entry.load() if isinstance(entry, Maker) else entry


def has_physics(name: str) -> bool:
    """Whether an environment lets its maker choose who computes its physics."""
    return OF_PHYSICS[0] in inspect.signature(maker(name)).parameters


def make(name: str, **options: Any) -> DLCMDP:
    """Build an environment.

    Args:
        name: one of `MAKERS`.
        **options: fields of the environment (`p`, `horizon`, `kernel`, ...) or arguments of its maker.

    Returns:
        The environment, its numbers as float32 arrays.

    Raises:
        UserError: an unknown name or option, or a value that can't be one; one line that names it.
    """
    import jax.numpy as jnp

    from dynamite_envs.dlcmdp import FiniteDLCMDP

    build = maker(name)
    own = [
        q.name
        for q in inspect.signature(build).parameters.values()
        if q.kind in (q.KEYWORD_ONLY, q.POSITIONAL_OR_KEYWORD)
    ]
    try:
        default = build(**{key: options[key] for key in OF_PHYSICS if key in own and key in options})
    except UserError as error:
        raise UserError(f"env_options: {error}") from None
    fields = {f.name: f for f in dataclasses.fields(default)}
    allowed = [key for key in dict.fromkeys([*own, *fields]) if key not in (*OF_PHYSICS, *FIXED)]
    for key in options:
        if key not in (*allowed, *(key for key in OF_PHYSICS if key in own)):
            raise UserError(f"env_options: {name} has no option {key!r}; {nearest(key, allowed)}")
    try:
        env = build(**options)
    except TypeError as error:
        raise UserError(f"env_options: {name} can't be made from {options}: {error}") from None
    except UserError as error:
        raise UserError(f"env_options: {error}") from None
    numbers = {
        key: _number(name, key, getattr(env, key), np.ndim(getattr(default, key)))
        for key, field in fields.items()
        if field.metadata.get("pytree_node", True) and key not in FIXED
    }
    _check_sizes(name, env, default)
    if isinstance(env, FiniteDLCMDP):
        _check_contexts(name, env.contexts, numbers["initial"], numbers["kernel"])
    return env.replace(**{key: jnp.asarray(value, jnp.float32) for key, value in numbers.items()})


def resolve(env: str | DLCMDP, *, feedback: bool = False, **options: Any) -> DLCMDP:
    """An environment as it is, or one by its name and options; with `feedback` in an `ObserveFeedback`.

    Raises:
        UserError: as `make`; or there are options and no name.
    """
    if isinstance(env, str):
        env = make(env, **options)
    elif options:
        name, value = next(iter(options.items()))
        raise UserError(f"{name} is {value!r}, and env is {type(env).__name__}, already made; options go with a name")
    if feedback:
        from dynamite_envs.wrappers import ObserveFeedback

        return ObserveFeedback.of(env)
    return env


def _refuse(name: str, key: str, value: Any, allowed: str) -> None:
    raise UserError(f"env_options: {key} of {name} is {value!r}; it must be {allowed}")


def _number(name: str, key: str, value: Any, dimensions: int) -> np.ndarray:
    """A number or array of the dimensions of its default, refused unless float32 can hold it."""
    allowed = ("a number", "a list of numbers", "a list of rows of numbers")[dimensions]
    try:
        array = np.asarray(value)
    except ValueError:  # rows of unlike length
        array = np.asarray(None)
    if array.dtype.kind not in "iuf" or array.ndim != dimensions:
        _refuse(name, key, value, allowed)
    if not np.all(np.abs(array.astype(float)) <= np.finfo(np.float32).max):
        _refuse(name, key, array.tolist(), "finite")
    if key == "p" and not 0.0 <= array <= 1.0:
        _refuse(name, key, value, "a probability, 0 to 1")
    return array


def _check_sizes(name: str, env: DLCMDP, default: DLCMDP) -> None:
    """Refuse static fields of another type than the default, and a horizon below one step."""
    if type(env.horizon) is not int or env.horizon < 1:
        _refuse(name, "horizon", env.horizon, "a whole number of at least 1")
    for field in dataclasses.fields(env):
        if not field.metadata.get("pytree_node", True):
            value, expected = getattr(env, field.name), type(getattr(default, field.name))
            if type(value) is not expected:
                _refuse(name, field.name, value, f"of type {expected.__name__}")


def _check_contexts(name: str, contexts: int | None, initial: np.ndarray, kernel: np.ndarray) -> None:
    """Refuse distributions that don't sum to 1 or have another number of contexts than the environment."""
    n = contexts or len(initial)
    for key, value, shape in (("initial", initial, (n,)), ("kernel", kernel, (n, n))):
        if value.shape != shape or np.any(value < 0) or not np.allclose(value.sum(-1), 1.0, atol=1e-5):
            _refuse(name, key, value.tolist(), f"{n} probabilities that sum to 1, in each row of it")
