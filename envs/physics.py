"""MuJoCo models as pure functions: MJX steps them inside the compiled program."""

import contextlib
import dataclasses
import functools
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import mujoco
from flax import struct

with contextlib.redirect_stdout(io.StringIO()):  # it prints when the optional package warp is missing
    from mujoco import mjx

from envs.dlcmdp import DLCMDP, Array, check_count

ASSETS = Path(__file__).parent / "assets"
IMPLEMENTATIONS = ("jax", "warp")


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


@dataclass(frozen=True)
class Simulator:
    """A model of `envs/assets` that makes `substeps` steps of its own in one step of the environment.

    Attributes:
        asset: name of the model's file, without its ending.
        substeps: steps of the model, one `timestep` each.
        impl: `jax` everywhere; `warp` on NVIDIA GPUs, faster there and not reproducible bit for bit.
        worlds: environments that `warp` steps at once, at most, whose contacts share one array; other implementations
            need no bound.
    """

    asset: str
    substeps: int
    impl: str = "jax"
    worlds: int | None = None

    def run_by(self, impl: str, worlds: int | None) -> "Simulator":
        """The same by another implementation.

        Raises:
            ValueError: this machine can't run it, or it needs to know the number of `worlds`.
        """
        check_implementation(impl)
        if impl == "warp":
            check_count("worlds", worlds, least=1)
        return dataclasses.replace(self, impl=impl, worlds=worlds)

    @property
    def model(self) -> Any:
        """The model as C MuJoCo holds it, an `MjModel`."""
        return load(self.asset)

    @property
    def dt(self) -> float:
        """Seconds of one step of the environment."""
        return self.substeps * self.model.opt.timestep

    def advance(self, motion: Motion, control: Array, applied: Array) -> Motion:
        """Move on by one step of the environment.

        Products are taken at full precision whatever the networks use: at that of tensor cores physics drifts.

        Args:
            motion: where it stands.
            control: of the actuators, held for the whole step, [nu].
            applied: generalised forces beside them, in N and N m, [nv].

        Returns:
            Where it stands after `substeps` steps.
        """
        with jax.ensure_compile_time_eval():  # constants, also where this is traced
            model, blank = mjx.put_model(self.model, impl=self.impl), self._blank()

        def substep(motion: Motion, _: None) -> tuple[Motion, None]:
            data = blank.replace(
                qpos=motion.qpos,
                qvel=motion.qvel,
                qacc_warmstart=motion.warmstart,
                ctrl=control,
                qfrc_applied=applied,
            )
            data = mjx.step(model, data)
            return Motion(data.qpos, data.qvel, data.qacc_warmstart), None

        with jax.default_matmul_precision("highest"):
            return jax.lax.scan(substep, motion, length=self.substeps)[0]

    def _blank(self) -> Any:
        """An `mjx.Data` with room for every contact and constraint; Warp's own sizes would drop some."""
        blank: Any = mjx.make_data(self.model, impl="jax")
        if self.impl == "jax":
            return blank
        most, worlds = blank._impl, self.worlds or 1
        return mjx.make_data(self.model, impl=self.impl, naconmax=max(1, worlds * most.ncon), njmax=most.nefc)


class MuJoCoDLCMDP(DLCMDP):
    """A DLCMDP whose physics is a `Motion`, moved on by a simulator.

    Attributes:
        simulator: the model and how it is stepped.
    """

    simulator: Simulator = struct.field(pytree_node=False, kw_only=True)


def check_implementation(impl: str) -> None:
    """Refuse a physics implementation that this machine can't run.

    Raises:
        ValueError: names the value and what is allowed.
    """
    if impl not in IMPLEMENTATIONS:
        raise ValueError(f"impl is {impl!r}; it must be one of {', '.join(IMPLEMENTATIONS)}")
    if impl == "warp":
        from mujoco.mjx.warp import WARP_INSTALLED

        if not WARP_INSTALLED:
            raise ValueError("impl is 'warp'; it needs the package warp-lang, which is not installed")
        if jax.default_backend() not in ("gpu", "cuda"):
            raise ValueError(f"impl is 'warp'; it needs an NVIDIA GPU, and JAX runs on {jax.default_backend()}")


@functools.cache
def load(asset: str) -> Any:
    """The `MjModel` in `envs/assets/ASSET.xml`."""
    return mujoco.MjModel.from_xml_path(str(ASSETS / f"{asset}.xml"))  # pyright: ignore[reportAttributeAccessIssue]
