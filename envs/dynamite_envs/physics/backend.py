"""MuJoCo models as pure functions, whoever computes them: what environments ask of physics, and what answers.

A backend is a class with the methods of `Backend` and a line in `BACKENDS`. Neither MuJoCo nor a backend is imported
before a model is loaded or stepped.
"""

import dataclasses
import functools
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from pkgutil import resolve_name
from typing import Any, Protocol, TypeVar

import jax
import numpy as np
from flax import struct

from dynamite_envs.dlcmdp import DLCMDP, check_count
from dynamite_envs.errors import FallbackWarning, UserError

Array = jax.Array

ASSETS = Path(__file__).parents[1] / "assets"
BACKENDS = {
    "jax": "dynamite_envs.physics.mjx:MJX",
    "c": "dynamite_envs.physics.c:C",
    "warp": "dynamite_envs.physics.warp:Warp",
}


class Motion(struct.PyTreeNode):
    """What moves.

    Attributes:
        qpos: joint positions in m and rad, [nq].
        qvel: joint velocities in m/s and rad/s, [nv].
        warmstart: accelerations of the last step, from which the contact solver starts, [nv].
    """

    qpos: Array
    qvel: Array
    warmstart: Array


M = TypeVar("M", bound=Motion)
Variants = Mapping[
    str, np.ndarray
]  # of `geom_pos`, `geom_quat` and `geom_size`: an array of the model for each, [V, ...]


class Contact(struct.PyTreeNode):
    """Pairs of geoms that can touch, in the order of the model, [n].

    Attributes:
        touching: whether they touch.
        force: normal to their surfaces, N.
        place: in m, [n, 3].
    """

    touching: Array
    force: Array
    place: Array


class Pose(struct.PyTreeNode):
    """Where bodies are and what they turn around.

    Attributes:
        position: in m, [nbody, 3].
        quaternion: orientations, [nbody, 4].
        anchor: a place on the axis of each joint, m, [nv, 3].
        axis: of each joint, [nv, 3].
    """

    position: Array
    quaternion: Array
    anchor: Array
    axis: Array


class Backend(Protocol):
    """Steps one model inside compiled programs, under vmap over environments and over seeds."""

    def __init__(self, simulator: "Simulator") -> None:
        """The model, its substeps and how many environments are stepped at once."""
        ...

    @staticmethod
    def check_machine() -> None:
        """Refuse a machine that can't run it.

        Raises:
            UserError: names what is missing.
        """
        ...

    def advance(self, motion: M, control: Array, applied: Array) -> M:
        """Make all substeps under one control, see `Simulator.advance`."""
        ...

    def advance_chain(
        self, motion: M, control: Array, applied: Array, *, variants: Variants, variant: Array
    ) -> tuple[M, Contact, Pose]:
        """Make all substeps of a variant of a chain, see `Simulator.advance_chain`."""
        ...


@dataclass(frozen=True)
class Simulator:
    """A model of `envs/dynamite_envs/assets` that makes `substeps` steps of its own in one step of the environment.

    Attributes:
        asset: name of the model's file, without its ending.
        substeps: steps of the model, one `timestep` each.
        impl: name of the backend: `c` on CPUs, the fastest there; `jax` everywhere; `warp` on NVIDIA GPUs, faster
            there and not reproducible bit for bit.
        worlds: environments that `warp` steps at once, at most, whose contacts share one array; other backends need no
            bound.
        chain: whether links hang one from the other in a long row, by a hinge each; see `chain.pose`.
    """

    asset: str
    substeps: int
    impl: str = "jax"
    worlds: int | None = None
    chain: bool = False

    def run_by(self, impl: str, worlds: int | None) -> "Simulator":
        """The same by another backend, or by that which `auto` names here.

        Raises:
            UserError: this machine can't run it, or it needs to know the number of `worlds`.
        """
        impl = resolve(impl)
        check_implementation(impl)
        if impl == "warp":
            check_count("worlds", worlds, least=1)
        return dataclasses.replace(self, impl=impl, worlds=worlds)

    @property
    def file(self) -> Path:
        """Where the model is stored."""
        return ASSETS / f"{self.asset}.xml"

    @property
    def model(self) -> Any:
        """The model as C MuJoCo holds it, an `MjModel`."""
        return load(self.file)

    @property
    def joint_limits(self) -> tuple[np.ndarray, np.ndarray]:
        """Least and greatest position of each joint, rad or m, infinite where it has none, [nq]."""
        low, high = self.model.jnt_range.T
        limited = self.model.jnt_limited.astype(bool)
        return np.where(limited, low, -np.inf), np.where(limited, high, np.inf)

    @property
    def dt(self) -> float:
        """Seconds of one step of the environment."""
        return self.substeps * self.model.opt.timestep

    @property
    def backend(self) -> Backend:
        """What steps the model."""
        return resolve_name(BACKENDS[self.impl])(self)

    def advance(self, motion: M, control: Array, applied: Array) -> M:
        """Move on by one step of the environment.

        Args:
            motion: state of the model.
            control: of the actuators, held for the step, [nu].
            applied: generalised forces beside them, in N and N m, [nv].

        Returns:
            State after `substeps` steps.
        """
        return self.backend.advance(motion, control, applied)

    def advance_chain(
        self, motion: M, control: Array, applied: Array, *, variants: Variants, variant: Array
    ) -> tuple[M, Contact, Pose]:
        """Move a `chain` on by one step of the environment, whose pairs of geoms make frictional contacts (condim 3).

        Args:
            motion: state of the model.
            control: of the actuators, held for the step, [nu].
            applied: generalised forces beside them, in N and N m, [nv].
            variants: numbers in place of those of the model.
            variant: which of the variants, []; it may be traced, and differ from environment to environment.

        Returns:
            State after `substeps` steps, contacts as the last of them began, and where the links are in the end.
        """
        return self.backend.advance_chain(motion, control, applied, variants=variants, variant=variant)

    def pose(self, qpos: Array) -> Pose:
        """Where the links of a `chain` are, at joint positions [nq]."""
        from dynamite_envs.physics import chain  # here, since it brings MuJoCo along

        return chain.pose(self.model, qpos)


class MuJoCoDLCMDP(DLCMDP):
    """A DLCMDP whose physics is a `Motion`, perhaps with more to remember, moved on by a simulator.

    Attributes:
        simulator: the model and how it is stepped.
    """

    simulator: Simulator = struct.field(pytree_node=False, kw_only=True)


def resolve(impl: str) -> str:
    """Name of a backend; `auto` is `c` on CPUs and `jax` elsewhere.

    Where `c` can't be had on a CPU, `auto` is `jax` too, with a `FallbackWarning` that says why.
    """
    if impl != "auto":
        return impl
    if jax.default_backend() != "cpu":
        return "jax"
    try:
        check_implementation("c")
    except UserError as error:
        warnings.warn(f"physics is computed by MJX, which is slower: {error}", FallbackWarning, stacklevel=2)
        return "jax"
    return "c"


def check_implementation(impl: str) -> None:
    """Refuse a physics backend that does not exist or that this machine can't run.

    Raises:
        UserError: names the value and what is allowed.
    """
    if impl not in BACKENDS:
        raise UserError(f"impl is {impl!r}; it must be one of auto, {', '.join(BACKENDS)}")
    resolve_name(BACKENDS[impl]).check_machine()


@functools.cache
def load(file: Path) -> Any:
    """The `MjModel` in a file."""
    import mujoco

    return mujoco.MjModel.from_xml_path(str(file))  # pyright: ignore[reportAttributeAccessIssue]
