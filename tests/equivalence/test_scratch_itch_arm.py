"""The arm that scratches: its model by published numbers, its steps against C MuJoCo, its start poses."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import mujoco as untyped
import numpy as np
import pytest
from scipy import stats

from dynamite_envs.physics.backend import Contact, Motion
from dynamite_envs.physics.quaternions import cross, matrix, multiply, rotate
from dynamite_envs.scratch_itch import env as scratch_itch
from dynamite_envs.scratch_itch import poses as scratch_itch_poses
from dynamite_envs.scratch_itch.env import ROBOT, Scratching, people
from scratching import KEYS, arm, make, played

mujoco: Any = untyped
POSE = np.array([1.5597, 1.9166, -1.4941, 1.9663, -2.7696, 1.215, -4.4972])


def test_the_model_has_the_published_numbers():
    model, turn = ROBOT.model, np.pi
    links = [  # place, rpy, range, mass, centre of mass, inertia
        ((0, 0, 0.15675), (0, turn, 0), None, 0.7477, (0, -0.002, -0.0605), (0.00152032, 0.00152032, 0.00059816)),
        (
            (0, 0.0016, -0.11875),
            (-turn / 2, 0, turn),
            (0.8203, 5.4629),
            0.8447,
            (0, -0.10356, 0),
            (0.00247074, 0.00038012, 0.00247074),
        ),
        ((0, -0.205, 0), (-turn / 2, 0, 0), None, 0.8447, (0, 0, -0.10224), (0.00247074, 0.00247074, 0.00038012)),
        (
            (0, 0, -0.205),
            (turn / 2, 0, turn),
            (0.5236, 5.7596),
            0.6763,
            (0, 0.081, -0.0086),
            (0.00142022, 0.00030434, 0.00142022),
        ),
        (
            (0, 0.2073, -0.0114),
            (-turn / 2, 0, turn),
            None,
            0.463,
            (0, 0.00288, -0.05419),
            (0.00043213, 0.00043213, 0.0000926),
        ),
        (
            (0, 0, -0.10375),
            (turn / 2, 0, turn),
            (1.1345, 5.1487),
            0.463,
            (0, 0.04972, -0.00286),
            (0.00043213, 0.0000926, 0.00043213),
        ),
        ((0, 0.10375, 0), (-turn / 2, 0, turn), None, 0.99, (0, 0, -0.06), (0.00034532, 0.00034532, 0.0005816)),
    ]
    for number, (place, rpy, limits, mass, centre, inertia) in enumerate(links, start=1):
        body, joint, quaternion, frame = (
            model.body(f"link{number}"),
            model.joint(f"joint{number}"),
            np.zeros(4),
            np.zeros(9),
        )
        mujoco.mju_euler2Quat(quaternion, np.array(rpy, float), "XYZ")
        np.testing.assert_allclose(body.pos, place, atol=1e-12)
        assert abs(body.quat @ quaternion) == pytest.approx(1.0)
        np.testing.assert_allclose(body.ipos, centre, atol=1e-12)
        mujoco.mju_quat2Mat(frame, body.iquat)
        frame = frame.reshape(3, 3)
        np.testing.assert_allclose(frame @ np.diag(body.inertia) @ frame.T, np.diag(inertia), atol=1e-12)
        assert body.mass[0] == mass and bool(model.jnt_limited[joint.id]) == (limits is not None)
        if limits:
            np.testing.assert_array_equal(joint.range, limits)
        np.testing.assert_array_equal(joint.axis, [0, 0, 1])
    np.testing.assert_array_equal(model.dof_armature, np.full(7, 0.05))
    assert not model.dof_damping.any() and not model.jnt_stiffness.any() and not model.dof_frictionloss.any()
    np.testing.assert_array_equal(model.actuator_forcerange, np.tile([-1.0, 1.0], (7, 1)))
    np.testing.assert_array_equal(model.actuator_gear[:, 0], np.ones(7))
    assert model.actuator_forcelimited.all() and not model.actuator_ctrllimited.any()
    np.testing.assert_allclose(model.body("base").pos, [-0.35, -0.3, 0.36])
    np.testing.assert_allclose(model.body("base").quat, [np.sqrt(0.5), 0, 0, -np.sqrt(0.5)], atol=1e-12)
    np.testing.assert_allclose(model.body("tool").pos, [0, 0, -0.16])
    np.testing.assert_allclose(np.abs(model.body("tool").quat), [0, 1, 0, 0], atol=1e-12)
    box, shaft, tip = (n for n in range(model.ngeom) if model.geom_bodyid[n] == model.body("tool").id)
    np.testing.assert_allclose(model.geom_size[box], [0.025] * 3)
    np.testing.assert_allclose(model.geom_size[shaft, :2], [0.01, 0.025])
    assert model.geom_size[tip, 0] == 0.01 and tip == model.geom("tip").id
    np.testing.assert_allclose(model.geom_pos[[box, shaft, tip]], [[0, 0, 0.02], [0, 0, 0.07], [0, 0, 0.095]])
    assert model.body("tool").mass[0] == pytest.approx(0.3)
    assert [model.geom(n).name for n in model.pair_geom1] == ["upper_arm", "forearm"]
    assert set(model.pair_geom2) == {tip} and set(model.pair_dim) == {3}
    np.testing.assert_array_equal(model.pair_solref, np.tile([0.1, 1.0], (2, 1)))
    np.testing.assert_array_equal(model.pair_friction[:, :2], np.full((2, 2), 0.5))
    assert not model.geom_contype.any() and not model.geom_conaffinity.any()
    option = model.opt
    assert (option.timestep, option.iterations, option.ls_iterations) == (0.02, 8, 8) and not option.gravity.any()
    assert option.integrator == mujoco.mjtIntegrator.mjINT_EULER
    assert option.solver == mujoco.mjtSolver.mjSOL_NEWTON and option.cone == mujoco.mjtCone.mjCONE_PYRAMIDAL
    np.testing.assert_allclose(scratch_itch.START, [-0.6 + 0.095, 0.0, 0.8])
    np.testing.assert_array_equal(scratch_itch.WRIST, [[-0.3185, -0.26, 0.7899], [-0.291, -0.231, 0.7634]])
    np.testing.assert_array_equal(scratch_itch.HAND, [0.043, 0.0355])


def test_the_chain_is_that_of_the_jaco():
    """Measured in Assistive Gym's arm: end effector and tip at these angles."""
    pose = ROBOT.pose(jnp.asarray(POSE, jnp.float32))
    np.testing.assert_allclose(pose.position[-1], [-0.5843, -0.0200, 0.8256], atol=1e-4)
    np.testing.assert_allclose(scratch_itch.tool(pose)[0], [-0.4893, -0.0201, 0.8258], atol=1e-4)


def test_poses_and_jacobian_are_those_of_c_mujoco():
    model, data = arm()
    rng = np.random.default_rng(0)
    for _ in range(5):
        data.qpos[:] = rng.uniform(-3, 3, 7)
        mujoco.mj_forward(model, data)
        pose = ROBOT.pose(jnp.asarray(data.qpos, jnp.float32))
        np.testing.assert_allclose(pose.position, data.xpos, atol=1e-6)
        np.testing.assert_allclose(pose.quaternion, data.xquat, atol=1e-6)
        np.testing.assert_allclose(pose.anchor, data.xanchor, atol=1e-6)
        np.testing.assert_allclose(pose.axis, data.xaxis, atol=1e-6)
        tip, expected = data.geom("tip").xpos, np.zeros((3, 7))
        mujoco.mj_jac(model, data, expected, None, tip, model.body("tool").id)
        jacobian = scratch_itch.jacobian(pose, scratch_itch.tool(pose)[0])
        np.testing.assert_allclose(jacobian, expected.T, atol=1e-6)


def test_quaternions_turn_as_c_mujocos():
    rng = np.random.default_rng(0)
    a, b = (x / np.linalg.norm(x) for x in rng.normal(size=(2, 4)))
    v, expected, turned, frame = rng.normal(size=3), np.zeros(4), np.zeros(3), np.zeros(9)
    mujoco.mju_mulQuat(expected, a, b)
    mujoco.mju_rotVecQuat(turned, v, a)
    mujoco.mju_quat2Mat(frame, a)
    a, b, v = (jnp.asarray(x, jnp.float32) for x in (a, b, v))
    np.testing.assert_allclose(multiply(a, b), expected, atol=1e-6)
    np.testing.assert_allclose(rotate(a, v), turned, atol=1e-6)
    np.testing.assert_allclose(matrix(a), frame.reshape(3, 3), atol=1e-6)
    np.testing.assert_allclose(cross(v, jnp.asarray(turned)), np.cross(v, turned), atol=1e-6)


@pytest.fixture(params=["jax", "c"])
def impl(request) -> str:
    return request.param


@functools.cache
def stepper(impl: str, female: bool, x64: bool = False):
    """The compiled step of 40 arms."""

    def one(motion: Motion, control: jax.Array) -> tuple[Motion, Contact]:
        once = dataclasses.replace(ROBOT, substeps=1, impl=impl)
        inputs = {"variants": people(), "variant": jnp.asarray(female)}
        return once.advance_chain(motion, control, jnp.zeros(7), **inputs)[:2]

    jax.clear_caches()  # parts of MJX that were traced in the other precision would be taken up again
    with jax.enable_x64(x64):
        kind = np.float64 if x64 else np.float32
        shape: Any = jax.ShapeDtypeStruct((40, 7), kind)
        step = jax.jit(jax.vmap(one)).lower(Motion(shape, shape, shape), shape).compile()
    jax.clear_caches()

    def run(motion: Motion, control: np.ndarray) -> tuple[Motion, Contact]:
        with jax.enable_x64(x64):
            args = jax.tree.map(lambda x: jnp.array(np.array(x, kind)), (motion, control))
            return jax.tree.map(np.asarray, jax.block_until_ready(step(*args)))

    return run


def c_run(model: Any, data: Any, steps: int, seed: int) -> tuple[Motion, np.ndarray, Motion]:
    """C MuJoCo under random targets: states before and after each step of the model, and the targets."""
    rng, rows = np.random.default_rng(seed), []
    data.qpos[:] = scratch_itch_poses.load()[rng.integers(512)]
    for step in range(steps):
        if step % 5 == 0:
            target = data.qpos + scratch_itch.REACH * rng.uniform(-1, 1, 7)
        before = Motion(data.qpos.copy(), data.qvel.copy(), data.qacc_warmstart.copy())
        data.ctrl[:] = target
        mujoco.mj_step(model, data)
        rows.append((before, data.ctrl.copy(), Motion(data.qpos.copy(), data.qvel.copy(), data.qacc_warmstart.copy())))
    before, control, after = zip(*rows, strict=True)

    def stack(motions):
        return jax.tree.map(lambda *x: np.stack(x), *motions)

    return stack(before), np.stack(control), stack(after)


@pytest.mark.parametrize("x64, position, velocity", [(False, 1e-6, 1e-6), (True, 1e-12, 1e-11)])
def test_a_step_of_the_free_arm_is_that_of_c_mujoco(impl, x64, position, velocity):
    for seed in range(5):
        before, control, after = c_run(*arm(), 40, seed)
        result, contact = stepper(impl, False, x64)(before, control)
        assert not contact.touching.any() and not contact.force.any()
        assert result.qpos.dtype == (np.float64 if x64 else np.float32)
        assert np.abs(result.qpos - after.qpos).max() <= position
        # In one state of a hundred float32 rounds by more, in MJX's own step too.
        worst = np.abs(result.qvel - after.qvel).max(1)
        assert np.quantile(worst, 0.9) <= velocity and worst.max() <= 5 * velocity


@pytest.mark.parametrize("female", [False, True])
def test_a_step_of_the_arm_in_contact_is_that_of_c_mujoco(impl, female):
    """From states that the reference policy comes to, either limb touched; forces and places too."""
    before, _, _ = played("scripted", impl)
    physics = before.physics
    at = np.argwhere((physics.female == female) & (physics.force > 0.5))
    at = tuple(at[:: len(at) // 40][:40].T)
    motion = Motion(physics.qpos[at], physics.qvel[at], physics.warmstart[at])
    model, data = arm(female)
    control = np.asarray(motion.qpos + np.random.default_rng(0).uniform(-0.25, 0.25, (40, 7)), np.float32)
    after, contact = stepper(impl, female)(motion, control)
    touched = np.zeros(2)
    for n in range(40):
        data.qpos[:], data.qvel[:], data.qacc_warmstart[:] = motion.qpos[n], motion.qvel[n], motion.warmstart[n]
        data.ctrl[:] = control[n]
        mujoco.mj_step(model, data)
        assert np.abs(after.qpos[n] - data.qpos).max() <= 2e-6
        assert np.abs(after.qvel[n] - data.qvel).max() <= 5e-5
        assert contact.touching[n].sum() == data.ncon
        for c in range(data.ncon):
            limb = scratch_itch.LIMBS.index(model.geom(min(data.contact[c].geom)).name)
            force = np.zeros(6)
            mujoco.mj_contactForce(model, data, c, force)
            assert contact.force[n, limb] == pytest.approx(force[0], abs=2e-3)
            np.testing.assert_allclose(contact.place[n, limb], data.contact[c].pos, atol=3e-6)
            touched[limb] += 1
    assert touched.min() >= 5


def test_a_joint_is_driven_to_its_target_by_a_limited_torque():
    """The published law: a commanded velocity for each rad from the target, a torque for each rad/s short of that."""
    model, data = arm()
    rng, limited = np.random.default_rng(0), 0
    for _ in range(20):
        data.qpos[:], data.qvel[:] = scratch_itch_poses.load()[rng.integers(512)], 0.3 * rng.normal(size=7)
        data.ctrl[:] = data.qpos + scratch_itch.REACH * rng.uniform(-1, 1, 7)
        mujoco.mj_forward(model, data)
        torque = np.array([8, 8, 4, 4, 2, 2, 2]) * (2.5 * (data.ctrl - data.qpos) - data.qvel)
        np.testing.assert_allclose(data.qfrc_actuator, np.clip(torque, -1, 1), atol=1e-12)
        limited += np.sum(np.abs(torque) > 1)
    assert 20 < limited < 120


def test_a_joint_answers_a_step_as_the_originals():
    """Published response of joint 1 to a full action, rad a step; the first step is not compared."""
    env = make(p=0.0)
    state = env.reset(jax.random.key(0))
    state = state.replace(physics=state.physics.replace(qpos=jnp.asarray(POSE, jnp.float32)))
    step, moved = jax.jit(env.step), []
    for _ in range(5):
        after = step(state, jnp.zeros(7).at[0].set(1.0))
        moved.append(float(after.physics.qpos[0] - state.physics.qpos[0]))
        state = after
    np.testing.assert_allclose(moved[1:], [0.0220, 0.0346, 0.0462, 0.0524], rtol=0.15)
    free = Scratching(**{**vars(state.physics), "qpos": jnp.asarray(POSE, jnp.float32).at[0].set(-1.5)})
    state = state.replace(physics=free.replace(qvel=jnp.zeros(7)))
    for _ in range(12):
        after = step(state, jnp.zeros(7).at[0].set(-1.0))
        moved.append(float(state.physics.qpos[0] - after.physics.qpos[0]))
        state = after
    assert moved[-1] == pytest.approx(0.0566, rel=0.02)


def test_joints_stop_at_their_ranges():
    env = make(p=0.0)
    state, step = env.reset(jax.random.key(0)), jax.jit(env.step)
    action = jnp.array([0.0, -1.0, 0.0, -1.0, 0.0, -1.0, 0.0])
    for _ in range(60):
        state = step(state, action)
    np.testing.assert_allclose(state.physics.qpos[jnp.array([1, 3, 5])], [0.8203, 0.5236, 1.1345], atol=0.02)


def test_episodes_start_in_the_poses_of_the_bank():
    poses = scratch_itch_poses.load()
    model, data = arm()
    places, tools = [], []
    for pose in poses:
        data.qpos[:] = pose
        mujoco.mj_kinematics(model, data)
        places.append(data.body("tool").xpos.copy())
        tools.append(data.body("tool").xquat.copy())
    offset = (np.array(places) - [-0.6, 0.0, 0.8]) / 0.05
    assert len(poses) >= 256 and np.abs(offset).max() < 1.0 + scratch_itch_poses.MISS / 0.05
    assert stats.kstest(offset.ravel(), stats.uniform(-1, 2).cdf).pvalue > 1e-3
    straight = np.array([np.sqrt(0.5), 0.0, np.sqrt(0.5), 0.0])  # rpy 0, 90 degrees, 0
    tilt = 2 * np.arccos(np.clip(np.abs(np.array(tools) @ straight), 0, 1))
    assert np.median(tilt) < 1e-3 and tilt.max() < scratch_itch_poses.TILT
    np.testing.assert_allclose(poses.mean(0), [1.738, 1.680, -1.088, 2.072, -3.114, 1.198, 2.077], atol=0.1)
    physics = jax.jit(jax.vmap(make().init_physics))(KEYS[:4000])
    which = np.abs(np.asarray(physics.qpos)[:, None] - poses).max(-1)
    assert which.min(1).max() < 1e-6
    assert stats.chisquare(np.bincount(which.argmin(1), minlength=len(poses))).pvalue > 1e-3
    assert not np.asarray(physics.qvel).any()


def test_poses_are_solved_as_those_of_the_bank_were():
    place = np.array([-0.58, 0.02, 0.83])
    model, data = arm()
    pose = scratch_itch_poses.solve(place)
    assert pose is not None
    data.qpos[:] = pose
    mujoco.mj_kinematics(model, data)
    np.testing.assert_allclose(data.body("tool").xpos, place, atol=1e-5)
    assert scratch_itch_poses.solve(np.array([5.0, 0.0, 0.0])) is None
