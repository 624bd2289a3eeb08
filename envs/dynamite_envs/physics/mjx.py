"""MuJoCo models as pure functions: MJX steps them inside the compiled program."""

import contextlib
import dataclasses
import functools
import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
from flax import struct

with contextlib.redirect_stdout(io.StringIO()):  # it prints when the optional package warp is missing
    from mujoco import mjx

from dynamite_envs.dlcmdp import DLCMDP, Array, check_count
from dynamite_envs.errors import UserError
from dynamite_envs.physics.quaternions import matrix, multiply, rotate

ASSETS = Path(__file__).parents[1] / "assets"
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


class Contact(struct.PyTreeNode):
    """Pairs of geoms that can touch, in the order of the model, [n].

    Attributes:
        found: whether they touch.
        force: normal to their surfaces, N.
        place: in m, [n, 3].
    """

    found: Array
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


@dataclass(frozen=True)
class Simulator:
    """A model of `envs/dynamite_envs/assets` that makes `substeps` steps of its own in one step of the environment.

    Attributes:
        asset: name of the model's file, without its ending.
        substeps: steps of the model, one `timestep` each.
        impl: `jax` everywhere; `warp` on NVIDIA GPUs, faster there and not reproducible bit for bit.
        worlds: environments that `warp` steps at once, at most, whose contacts share one array; other implementations
            need no bound.
        chain: whether links hang one from the other in a long row, by a hinge each; see `_pose_chain`.
    """

    asset: str
    substeps: int
    impl: str = "jax"
    worlds: int | None = None
    chain: bool = False

    def run_by(self, impl: str, worlds: int | None) -> "Simulator":
        """The same by another implementation.

        Raises:
            UserError: this machine can't run it, or it needs to know the number of `worlds`.
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
    def joint_limits(self) -> tuple[np.ndarray, np.ndarray]:
        """Least and greatest position of each joint, rad or m, infinite where it has none, [nq]."""
        low, high = self.model.jnt_range.T
        limited = self.model.jnt_limited.astype(bool)
        return np.where(limited, low, -np.inf), np.where(limited, high, np.inf)

    @property
    def dt(self) -> float:
        """Seconds of one step of the environment."""
        return self.substeps * self.model.opt.timestep

    def advance(self, motion: Motion, control: Array, applied: Array) -> Motion:
        """Move on by one step of the environment.

        Args:
            motion: where it stands.
            control: of the actuators, held for the whole step, [nu].
            applied: generalised forces beside them, in N and N m, [nv].

        Returns:
            Where it stands after `substeps` steps.
        """
        step = self.stepper()

        def substep(motion: Motion, _: None) -> tuple[Motion, None]:
            return step(motion, control, applied)[0], None

        return jax.lax.scan(substep, motion, length=self.substeps)[0]

    def stepper(self, **changes: Array) -> Callable[[Motion, Array, Array], tuple[Motion, Any]]:
        """A function that makes one step of the model.

        Products are taken at full precision whatever the networks use: at that of tensor cores physics drifts.

        Args:
            **changes: numbers of the model in place of the asset's, such as `geom_pos` [ngeom, 3]; they may be traced.

        Returns:
            (motion, control [nu], applied [nv]) -> (motion after `timestep`, the `mjx.Data` of it).
        """
        with jax.ensure_compile_time_eval():  # constants, also where this is traced
            model, blank = self._constants()
        model = model.replace(**changes)
        one_step = _step_chain if self.chain else mjx.step

        def step(motion: Motion, control: Array, applied: Array) -> tuple[Motion, Any]:
            data = blank.replace(
                qpos=motion.qpos,
                qvel=motion.qvel,
                qacc_warmstart=motion.warmstart,
                ctrl=control,
                qfrc_applied=applied,
            )
            with jax.default_matmul_precision("highest"):
                data = one_step(model, data)
            after = motion.replace(qpos=data.qpos, qvel=data.qvel, warmstart=data.qacc_warmstart)
            return after, data

        return step

    def pose(self, qpos: Array) -> Pose:
        """Where the links of a `chain` are."""
        with jax.ensure_compile_time_eval():
            model, blank = self._constants()
        data = _pose_chain(model, blank.replace(qpos=qpos))
        return Pose(data.xpos, data.xquat, data.xanchor, data.xaxis)

    def _constants(self) -> tuple[Any, Any]:
        if self.chain and not _is_chain(self.model):
            raise ValueError(f"{self.asset} is no chain of hinges under Euler's method without tendons and sensors")
        return mjx.put_model(self.model, impl=self.impl), self._blank()

    def _blank(self) -> Any:
        """An `mjx.Data` with room for every contact and constraint; Warp's own sizes would drop some."""
        blank: Any = mjx.make_data(self.model, impl="jax")
        if self.impl == "jax":
            return blank
        most, worlds = blank._impl, self.worlds or 1
        return mjx.make_data(self.model, impl=self.impl, naconmax=max(1, worlds * most.ncon), njmax=most.nefc)


class MuJoCoDLCMDP(DLCMDP):
    """A DLCMDP whose physics is a `Motion`, perhaps with more to remember, moved on by a simulator.

    Attributes:
        simulator: the model and how it is stepped.
    """

    simulator: Simulator = struct.field(pytree_node=False, kw_only=True)


def _is_chain(model: Any) -> bool:
    """Whether `_step_chain` leaves out nothing of what a model needs."""
    hinges = np.all(model.jnt_type == mujoco.mjtJoint.mjJNT_HINGE) and np.all(model.body_jntnum <= 1)  # pyright: ignore[reportAttributeAccessIssue]
    euler = model.opt.integrator == mujoco.mjtIntegrator.mjINT_EULER  # pyright: ignore[reportAttributeAccessIssue]
    return bool(hinges and euler and not model.ntendon and not model.nsensor)


def contacts(data: Any) -> Contact:
    """Contacts of an `mjx.Data` of frictional contacts (three dimensions, pyramidal) after a step.

    MJX's own contact sensors are not read: the second of two shows no force and another place (mujoco-mjx 3.17.0).
    """
    contact = data._impl.contact
    rows = contact.efc_address[:, None] + jnp.arange(4)  # edges of the pyramid
    return Contact(contact.dist < 0.0, jnp.sum(data._impl.efc_force[rows], axis=-1), contact.pos)


def _step_chain(model: Any, data: Any) -> Any:
    """`mjx.step` of a model of rigid bodies by Euler's method, its kinematics those of `_pose_chain`."""
    for stage in (
        _pose_chain,
        mjx.com_pos,
        mjx.crb,
        mjx.factor_m,
        mjx.collision,
        mjx.make_constraint,
        mjx.transmission,
        mjx.fwd_velocity,
        mjx.fwd_actuation,
        mjx.fwd_acceleration,
        mjx.solve,
        mjx.euler,
    ):
        data = stage(model, data)
    return data


def _pose_chain(model: Any, data: Any) -> Any:
    """`mjx.kinematics` of bodies that hang by at most one hinge each, one body after the other.

    The compiler fuses what it can, and on a CPU a fused pose is computed anew for every number that is made of it:
    with seven links in a row, thousands of times (jax 0.9.2). A barrier behind each body keeps them apart, and the arm
    steps a thousand times as fast; where nothing is fused across bodies it changes nothing.
    """
    positions, quaternions = [jnp.zeros(3)], [jnp.array([1.0, 0.0, 0.0, 0.0])]
    anchors, axes = [], []
    for body in range(1, model.nbody):
        parent, joint = model.body_parentid[body], model.body_jntadr[body]
        position = positions[parent] + rotate(quaternions[parent], model.body_pos[body])
        quaternion = multiply(quaternions[parent], model.body_quat[body])
        if joint >= 0:
            axis, half = model.jnt_axis[joint], (data.qpos[joint] - model.qpos0[joint]) / 2
            anchors.append(position + rotate(quaternion, model.jnt_pos[joint]))
            axes.append(rotate(quaternion, axis))
            turn = jnp.concatenate([jnp.cos(half)[None], jnp.sin(half) * axis])
            quaternion = multiply(quaternion, turn)
            position = anchors[-1] - rotate(quaternion, model.jnt_pos[joint])
        position, quaternion = jax.lax.optimization_barrier((position, quaternion))
        positions.append(position)
        quaternions.append(quaternion)
    xpos, xquat, xanchor, xaxis = map(jnp.stack, (positions, quaternions, anchors, axes))

    def parts(of: Any, offset: Array, turn: Array) -> tuple[Array, Array]:
        """Positions and matrices of what is fixed to bodies."""
        return xpos[of] + rotate(xquat[of], offset), matrix(multiply(xquat[of], turn))

    xipos, ximat = parts(slice(None), model.body_ipos, model.body_iquat)
    geom_xpos, geom_xmat = parts(model.geom_bodyid, model.geom_pos, model.geom_quat)
    data = data.replace(xpos=xpos, xquat=xquat, xmat=matrix(xquat), xanchor=xanchor, xaxis=xaxis)
    return data.replace(xipos=xipos, ximat=ximat, geom_xpos=geom_xpos, geom_xmat=geom_xmat)


def check_implementation(impl: str) -> None:
    """Refuse a physics implementation that this machine can't run.

    Raises:
        UserError: names the value and what is allowed.
    """
    if impl not in IMPLEMENTATIONS:
        raise UserError(f"impl is {impl!r}; it must be one of {', '.join(IMPLEMENTATIONS)}")
    if impl == "warp":
        from mujoco.mjx.warp import WARP_INSTALLED

        if not WARP_INSTALLED:
            raise UserError("impl is 'warp'; it needs the package warp-lang, which is not installed")
        if jax.default_backend() not in ("gpu", "cuda"):
            raise UserError(f"impl is 'warp'; it needs an NVIDIA GPU, and JAX runs on {jax.default_backend()}")


@functools.cache
def load(asset: str) -> Any:
    """The `MjModel` in `envs/dynamite_envs/assets/ASSET.xml`."""
    return mujoco.MjModel.from_xml_path(str(ASSETS / f"{asset}.xml"))  # pyright: ignore[reportAttributeAccessIssue]
