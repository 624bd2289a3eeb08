"""Joint angles from which ScratchItch starts: solved once by inverse kinematics, and stored beside the model.

python -m dynamite_envs.scratch_itch.poses
"""

import functools
from typing import Any

import mujoco as untyped
import numpy as np

from dynamite_envs.physics.backend import ASSETS, Simulator

mujoco: Any = untyped
FILE = ASSETS / "scratch_itch_poses.csv"
POSES, SEED = 512, 0
CENTRE, SPREAD = np.array([-0.6, 0.0, 0.8]), 0.05  # of the end effector, m; its z axis points along x
NEARBY = np.array([1.738, 1.680, -1.088, 2.072, -3.114, 1.198, 2.077])  # mean start of Assistive Gym, rad
STEPS, DAMPING = 300, 1e-4  # of least squares; the latter in m^2
TILT_WEIGHT = 0.05  # of turning, m/rad: the wrist bends too little for some places, which are reached at a tilt
MARGIN = 0.01  # from the ends of a joint's range, rad
MISS, TILT = 0.002, 0.15  # at most, m and rad


@functools.cache
def load() -> np.ndarray:
    """Stored poses, rad, [POSES, 7]."""
    return np.loadtxt(FILE, delimiter=",")


def solve(place: np.ndarray) -> np.ndarray | None:
    """Angles that bring the end effector to a place, its z axis along x as far as the joints' ranges allow.

    Damped least squares from `NEARBY`; joints at an end of their range don't take part.

    Returns:
        Angles, [7]; None where the place is missed by more than `MISS` or reached at more than `TILT`.
    """
    simulator = Simulator("scratch_itch", substeps=1)
    model, (low, high) = simulator.model, simulator.joint_limits
    data, tool = mujoco.MjData(model), model.body("tool").id
    data.qpos[:] = NEARBY
    low, high = low + MARGIN, high - MARGIN
    target, back, turn, tilt = np.zeros(4), np.zeros(4), np.zeros(4), np.zeros(3)
    mujoco.mju_euler2Quat(target, np.array([0.0, np.pi / 2, 0.0]), "XYZ")
    jacobian = np.zeros((6, model.nv))
    for _ in range(STEPS):
        mujoco.mj_kinematics(model, data)
        mujoco.mj_comPos(model, data)
        mujoco.mju_negQuat(back, data.xquat[tool])
        mujoco.mju_mulQuat(turn, target, back)
        mujoco.mju_quat2Vel(tilt, turn, 1.0)
        miss = place - data.xpos[tool]
        mujoco.mj_jacBody(model, data, jacobian[:3], jacobian[3:], tool)
        moves, error = jacobian * np.repeat([1.0, TILT_WEIGHT], 3)[:, None], np.concatenate([miss, TILT_WEIGHT * tilt])
        for _ in range(1 + int(np.isfinite(low).sum())):  # each time, joints that would leave their range are held
            change = moves.T @ np.linalg.solve(moves @ moves.T + DAMPING * np.eye(6), error)
            held = ((data.qpos <= low) & (change < 0)) | ((data.qpos >= high) & (change > 0))
            moves[:, held] = 0.0
        data.qpos[:] = np.clip(data.qpos + change, low, high)
    reached = np.abs(miss).max() < MISS and np.linalg.norm(tilt) < TILT
    return data.qpos.copy() if reached else None


def main() -> None:
    """Solve for random places and store the poses."""
    rng, poses, missed = np.random.default_rng(SEED), [], 0
    while len(poses) < POSES:
        pose = solve(CENTRE + rng.uniform(-SPREAD, SPREAD, 3))
        if pose is None:
            missed += 1
        else:
            poses.append(pose)
    np.savetxt(FILE, poses, fmt="%.6f", delimiter=",")
    print(f"{POSES} poses in {FILE}, {missed} places not reached, mean {np.round(np.mean(poses, axis=0), 3)}")


if __name__ == "__main__":
    main()
