"""Bodies that hang in a row by a hinge each: where they are."""

from typing import Any

import jax
import jax.numpy as jnp
import mujoco
import numpy as np

from dynamite_envs.physics.backend import Pose
from dynamite_envs.physics.quaternions import multiply, rotate

Array = jax.Array


def is_chain(model: Any) -> bool:
    """Whether an `MjModel` holds nothing that `pose`, and MJX's steps with it, would leave out."""
    hinges = np.all(model.jnt_type == mujoco.mjtJoint.mjJNT_HINGE) and np.all(model.body_jntnum <= 1)  # pyright: ignore[reportAttributeAccessIssue]
    euler = model.opt.integrator == mujoco.mjtIntegrator.mjINT_EULER  # pyright: ignore[reportAttributeAccessIssue]
    return bool(hinges and euler and not model.ntendon and not model.nsensor)


def pose(model: Any, qpos: Array) -> Pose:
    """Kinematics of bodies that hang by at most one hinge each, one body after the other.

    The compiler fuses what it can, and on a CPU a fused pose is computed anew for every number that is made of it:
    with seven links in a row, thousands of times (jax 0.9.2). A barrier behind each body keeps them apart, and the arm
    steps a thousand times as fast; where nothing is fused across bodies it changes nothing.

    Args:
        model: of MuJoCo or of MJX.
        qpos: joint positions, rad, [nq].
    """
    fixed = {
        name: jnp.asarray(getattr(model, name), qpos.dtype)
        for name in ("body_pos", "body_quat", "jnt_axis", "jnt_pos", "qpos0")
    }
    positions, quaternions = [jnp.zeros(3)], [jnp.array([1.0, 0.0, 0.0, 0.0])]
    anchors, axes = [], []
    for body in range(1, model.nbody):
        parent, joint = model.body_parentid[body], model.body_jntadr[body]
        position = positions[parent] + rotate(quaternions[parent], fixed["body_pos"][body])
        quaternion = multiply(quaternions[parent], fixed["body_quat"][body])
        if joint >= 0:
            axis, half = fixed["jnt_axis"][joint], (qpos[joint] - fixed["qpos0"][joint]) / 2
            anchors.append(position + rotate(quaternion, fixed["jnt_pos"][joint]))
            axes.append(rotate(quaternion, axis))
            turn = jnp.concatenate([jnp.cos(half)[None], jnp.sin(half) * axis])
            quaternion = multiply(quaternion, turn)
            position = anchors[-1] - rotate(quaternion, fixed["jnt_pos"][joint])
        position, quaternion = jax.lax.optimization_barrier((position, quaternion))
        positions.append(position)
        quaternions.append(quaternion)
    return jax.lax.optimization_barrier(Pose(*map(jnp.stack, (positions, quaternions, anchors, axes))))
