"""Bodies that hang in a row: MJX's step with their kinematics computed body by body."""

from typing import Any

import jax
import jax.numpy as jnp
import mujoco
import numpy as np

from dynamite_envs.physics.quaternions import matrix, multiply, rotate
from dynamite_envs.physics.quiet_mjx import mjx

Array = jax.Array


def is_chain(model: Any) -> bool:
    """Whether `step` leaves out nothing of what a model needs."""
    hinges = np.all(model.jnt_type == mujoco.mjtJoint.mjJNT_HINGE) and np.all(model.body_jntnum <= 1)  # pyright: ignore[reportAttributeAccessIssue]
    euler = model.opt.integrator == mujoco.mjtIntegrator.mjINT_EULER  # pyright: ignore[reportAttributeAccessIssue]
    return bool(hinges and euler and not model.ntendon and not model.nsensor)


def step(model: Any, data: Any) -> Any:
    """`mjx.step` of a model of rigid bodies by Euler's method, its kinematics those of `pose`."""
    for stage in (
        pose,
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


def pose(model: Any, data: Any) -> Any:
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
