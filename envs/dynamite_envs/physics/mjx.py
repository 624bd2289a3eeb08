"""Physics by MJX, MuJoCo in JAX."""

from typing import Any

import jax
import jax.numpy as jnp

from dynamite_envs.physics import chain
from dynamite_envs.physics.backend import Contact, M, Pose, Simulator, Variants
from dynamite_envs.physics.quaternions import matrix, multiply, rotate
from dynamite_envs.physics.quiet_mjx import mjx

Array = jax.Array


class MJX:
    """A `Backend`. Products are taken at full precision: at that of tensor cores physics drifts."""

    impl = "jax"

    def __init__(self, simulator: Simulator):
        """Nothing is computed yet."""
        self.simulator = simulator

    @staticmethod
    def check_machine() -> None:
        """It runs everywhere."""

    def advance(self, motion: M, control: Array, applied: Array) -> M:
        """Make all substeps under one control."""
        model, blank = self._constants()

        def substep(motion: M, _: None) -> tuple[M, None]:
            return self._step(model, blank, motion, control, applied)[0], None

        return jax.lax.scan(substep, motion, length=self.simulator.substeps)[0]

    def advance_chain(
        self, motion: M, control: Array, applied: Array, *, variants: Variants, variant: Array
    ) -> tuple[M, Contact, Pose]:
        """Make all substeps of a variant of a chain, see `Simulator.advance_chain`."""
        model, blank = self._constants()
        dtype, index = motion.qpos.dtype, variant.astype(int)
        model = model.replace(**{name: jnp.asarray(values, dtype)[index] for name, values in variants.items()})

        def substep(motion: M, _: None) -> tuple[M, Contact]:
            motion, data = self._step(model, blank, motion, control, applied)
            return motion, _contacts(data)

        motion, contacts = jax.lax.scan(substep, motion, length=self.simulator.substeps)
        return motion, jax.tree.map(lambda x: x[-1], contacts), self.simulator.pose(motion.qpos)

    def _step(self, model: Any, blank: Any, motion: M, control: Array, applied: Array) -> tuple[M, Any]:
        """The motion after one step of the model, and the `mjx.Data` of it."""
        data = blank.replace(
            qpos=motion.qpos,
            qvel=motion.qvel,
            qacc_warmstart=motion.warmstart,
            ctrl=control,
            qfrc_applied=applied,
        )
        one_step = _step_chain if self.simulator.chain else mjx.step
        with jax.default_matmul_precision("highest"):
            data = one_step(model, data)
        return motion.replace(qpos=data.qpos, qvel=data.qvel, warmstart=data.qacc_warmstart), data

    def _constants(self) -> tuple[Any, Any]:
        """The model and an `mjx.Data` to fill in, constants also where this is traced."""
        model = self.simulator.model
        if self.simulator.chain and not chain.is_chain(model):
            raise ValueError(
                f"{self.simulator.asset} is no chain of hinges under Euler's method without tendons and sensors"
            )
        with jax.ensure_compile_time_eval():
            return mjx.put_model(model, impl=self.impl), self._blank()

    def _blank(self) -> Any:
        """An `mjx.Data` of the model."""
        return mjx.make_data(self.simulator.model, impl="jax")


def _step_chain(model: Any, data: Any) -> Any:
    """`mjx.step` of a model of rigid bodies by Euler's method, its kinematics those of `chain.pose`."""
    for stage in (
        _chain_kinematics,
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


def _chain_kinematics(model: Any, data: Any) -> Any:
    """`mjx.kinematics` of a chain."""
    pose = chain.pose(model, data.qpos)

    def parts(of: Any, offset: Array, turn: Array) -> tuple[Array, Array]:
        """Positions and matrices of what is fixed to bodies."""
        place, frame = pose.position[of], pose.quaternion[of]
        return place + rotate(frame, offset), matrix(multiply(frame, turn))

    xipos, ximat = parts(slice(None), model.body_ipos, model.body_iquat)
    geom_xpos, geom_xmat = parts(model.geom_bodyid, model.geom_pos, model.geom_quat)
    data = data.replace(xpos=pose.position, xquat=pose.quaternion, xmat=matrix(pose.quaternion))
    data = data.replace(xanchor=pose.anchor, xaxis=pose.axis)
    return data.replace(xipos=xipos, ximat=ximat, geom_xpos=geom_xpos, geom_xmat=geom_xmat)


def _contacts(data: Any) -> Contact:
    """Contacts of an `mjx.Data` of frictional contacts (three dimensions, pyramidal) after a step.

    MJX's own contact sensors are not read: the second of two shows no force and another place (mujoco-mjx 3.17.0).
    """
    contact = data._impl.contact
    rows = contact.efc_address[:, None] + jnp.arange(4)  # edges of the pyramid
    return Contact(contact.dist < 0.0, jnp.sum(data._impl.efc_force[rows], axis=-1), contact.pos)
