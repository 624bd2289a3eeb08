"""Pictures of states, with the hidden context drawn in.

How an environment is drawn lies in a module of its own, which the environment knows nothing of and which is imported
when it is asked for.
"""

from __future__ import annotations

import os
import sys
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any, Protocol

from dynamite_envs.errors import UserError

if TYPE_CHECKING:
    import numpy as np

    from dynamite_envs.dlcmdp import DLCMDP, State

FPS = 10  # of environments whose steps take no time
SCENES = {
    "dynamite_envs.gridworld.grid:Grid": "dynamite_envs.pictures.plane:GridScene",
    "dynamite_envs.point_robot:PointRobot": "dynamite_envs.pictures.plane:PointScene",
    "dynamite_envs.half_cheetah:HalfCheetah": "dynamite_envs.pictures.bodies:CheetahScene",
    "dynamite_envs.reacher:Reacher": "dynamite_envs.pictures.bodies:ReacherScene",
    "dynamite_envs.scratch_itch.env:ScratchItch": "dynamite_envs.pictures.bodies:ItchScene",
    "dynamite_envs.legged:Legged": "dynamite_envs.pictures.legged:LeggedScene",
}


class Scene(Protocol):
    """Draws states of one environment."""

    def __init__(self, env: Any) -> None:
        """The environment."""
        ...

    @staticmethod
    def context_names(env: Any) -> tuple[str, ...]:
        """Names of the contexts where they are finitely many, else of the features of the context, with units."""
        ...

    def draw(self, state: State) -> np.ndarray:
        """A picture of one state, red, green and blue from 0 to 255, [height, width, 3]."""
        ...

    def close(self) -> None:
        """Free what it holds."""
        ...


def scene(env: DLCMDP) -> Scene:
    """What draws an environment, whatever wraps it; `without_display` comes before an environment with physics is made.

    Raises:
        UserError: nothing draws it.
    """
    return check(env)(env.unwrapped)


def check(env: DLCMDP) -> type[Scene]:
    """Refuse an environment that nothing draws.

    Returns:
        The class of its scene.

    Raises:
        UserError: names those that are drawn.
    """
    if drawn_by := _scene_class(env):
        return drawn_by
    drawn = ", ".join(name.partition(":")[2] for name in SCENES)
    raise UserError(f"env is {type(env.unwrapped).__name__}, which has no picture; those of {drawn} are drawn")


def context_names(env: DLCMDP, count: int) -> tuple[str, ...]:
    """Names of `count` contexts where they are finitely many, else of as many features of the context, with units."""
    drawn_by = _scene_class(env)
    names = drawn_by.context_names(env.unwrapped) if drawn_by else ()
    return names if len(names) == count else tuple(f"context {i}" for i in range(count))  # a subclass may have others


def _scene_class(env: DLCMDP) -> type[Scene] | None:
    """What draws an environment, if anything does."""
    for environment in type(env.unwrapped).__mro__:
        if target := SCENES.get(f"{environment.__module__}:{environment.__qualname__}"):
            return resolve_name(target)
    return None


def frame_rate(env: DLCMDP) -> float:
    """Pictures a second at which an environment with physics moves as fast as it would; `FPS` without."""
    env = env.unwrapped
    simulator = getattr(env, "simulator", None) or getattr(env, "body", None)  # of MuJoCo, or another library's
    seconds = getattr(simulator, "dt", None)
    return FPS if seconds is None else 1.0 / seconds


def without_display() -> None:
    """Let MuJoCo draw without a screen; it asks for that when it is imported."""
    if sys.platform == "linux":
        os.environ.setdefault("MUJOCO_GL", "egl")
