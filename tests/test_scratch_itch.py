"""The robot that scratches: its arm against C MuJoCo and published numbers, the itch, scratches, and how it pays."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import mujoco as untyped
import numpy as np
import pytest
from scipy import stats

from envs import registry, scratch_itch, scratch_itch_poses
from envs.dlcmdp import State
from envs.physics import Contact, Motion, contacts, cross, matrix, multiply, rotate
from envs.scratch_itch import ROBOT, Itch, Scratching, ScratchItch, itch_frame, person, scratch
from envs.scratch_itch_reference import act

mujoco: Any = untyped
KEYS = jax.random.split(jax.random.key(0), 20_000)
POSE = np.array([1.5597, 1.9166, -1.4941, 1.9663, -2.7696, 1.215, -4.4972])
EPISODES = 128


def make(**options: Any) -> ScratchItch:
    env = registry.make("scratch_itch", **options)
    assert isinstance(env, ScratchItch)
    return env


@jax.jit
def play(env: ScratchItch, key: jax.Array, random: jax.Array, scripted: jax.Array) -> tuple[State, jax.Array, State]:
    """States before, actions and states after each step, [H, N]: of random actions, or of the reference policy."""
    reset_key, key = jax.random.split(key)
    start = jax.vmap(env.reset)(jax.random.split(reset_key, EPISODES))

    def step(state: State, key: jax.Array) -> tuple[State, tuple[State, jax.Array, State]]:
        action = random * jax.random.uniform(key, (EPISODES, 7), minval=-1.0, maxval=1.0)
        action = jnp.where(scripted, jax.vmap(lambda state: act(env, state))(state), action)
        after = jax.vmap(env.step)(state, action)
        return after, (state, action, after)

    return jax.lax.scan(step, start, jax.random.split(key, env.horizon))[1]


@functools.cache
def played(policy: str) -> tuple[State, np.ndarray, State]:
    found = play(make(), jax.random.key(1), jnp.float32(policy == "random"), jnp.array(policy == "scripted"))
    before, action, after = (
        jax.tree.map(lambda x: x if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else np.asarray(x), part)
        for part in found
    )
    return before, action, after


def arm(female: bool = False) -> tuple[Any, Any]:
    """The model in C, before a man or a woman, its solver given more iterations than ours."""
    model = mujoco.MjModel.from_xml_path(str(scratch_itch_poses.ASSETS / "scratch_itch.xml"))
    for name, value in person(jnp.float32(female)).items():
        getattr(model, name)[:] = value
    model.opt.iterations, model.opt.ls_iterations = 100, 50
    return model, mujoco.MjData(model)


# -- the arm -------------------------------------------------------------------------------------------------------


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
    np.testing.assert_array_equal(model.actuator_ctrlrange, np.tile([-1.0, 1.0], (7, 1)))
    np.testing.assert_array_equal(model.actuator_gear[:, 0], np.ones(7))
    assert model.actuator_ctrllimited.all()
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
        tip, wanted = data.geom("tip").xpos, np.zeros((3, 7))
        mujoco.mj_jac(model, data, wanted, None, tip, model.body("tool").id)
        found = scratch_itch.jacobian(pose, scratch_itch.tool(pose)[0])
        np.testing.assert_allclose(found, wanted.T, atol=1e-6)


def test_quaternions_turn_as_c_mujocos():
    rng = np.random.default_rng(0)
    a, b = (x / np.linalg.norm(x) for x in rng.normal(size=(2, 4)))
    v, wanted, turned, frame = rng.normal(size=3), np.zeros(4), np.zeros(3), np.zeros(9)
    mujoco.mju_mulQuat(wanted, a, b)
    mujoco.mju_rotVecQuat(turned, v, a)
    mujoco.mju_quat2Mat(frame, a)
    a, b, v = (jnp.asarray(x, jnp.float32) for x in (a, b, v))
    np.testing.assert_allclose(multiply(a, b), wanted, atol=1e-6)
    np.testing.assert_allclose(rotate(a, v), turned, atol=1e-6)
    np.testing.assert_allclose(matrix(a), frame.reshape(3, 3), atol=1e-6)
    np.testing.assert_allclose(cross(v, jnp.asarray(turned)), np.cross(v, turned), atol=1e-6)


@functools.cache
def stepper(female: bool, x64: bool = False):
    """The compiled step of 40 arms."""

    def one(motion: Motion, control: jax.Array) -> tuple[Motion, Contact]:
        after, data = ROBOT.stepper(**person(jnp.float32(female)))(motion, control, jnp.zeros(7))
        return after, contacts(data)

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


def servo(data: Any, target: np.ndarray) -> np.ndarray:
    return np.clip(np.array([8, 8, 4, 4, 2, 2, 2]) * (2.5 * (target - data.qpos) - data.qvel), -1, 1)


def c_run(model: Any, data: Any, steps: int, seed: int) -> tuple[Motion, np.ndarray, Motion]:
    """C MuJoCo under random targets: states before and after each step of the model, and controls."""
    rng, rows = np.random.default_rng(seed), []
    data.qpos[:] = scratch_itch_poses.load()[rng.integers(512)]
    for step in range(steps):
        if step % 5 == 0:
            target = data.qpos + scratch_itch.REACH * rng.uniform(-1, 1, 7)
        before = Motion(data.qpos.copy(), data.qvel.copy(), data.qacc_warmstart.copy())
        data.ctrl[:] = servo(data, target)
        mujoco.mj_step(model, data)
        rows.append((before, data.ctrl.copy(), Motion(data.qpos.copy(), data.qvel.copy(), data.qacc_warmstart.copy())))
    before, control, after = zip(*rows, strict=True)
    stack = lambda motions: jax.tree.map(lambda *x: np.stack(x), *motions)  # noqa: E731
    return stack(before), np.stack(control), stack(after)


@pytest.mark.parametrize("x64, position, velocity", [(False, 1e-6, 1e-6), (True, 1e-12, 1e-11)])
def test_a_step_of_the_free_arm_is_that_of_c_mujoco(x64, position, velocity):
    for seed in range(5):
        before, control, after = c_run(*arm(), 40, seed)
        found, contact = stepper(False, x64)(before, control)
        assert not contact.found.any() and not contact.force.any()
        assert found.qpos.dtype == (np.float64 if x64 else np.float32)
        assert np.abs(found.qpos - after.qpos).max() <= position
        # In one state of a hundred float32 rounds by more, in MJX's own step too.
        worst = np.abs(found.qvel - after.qvel).max(1)
        assert np.quantile(worst, 0.9) <= velocity and worst.max() <= 5 * velocity


@pytest.mark.parametrize("female", [False, True])
def test_a_step_of_the_arm_in_contact_is_that_of_c_mujoco(female):
    """From states that the reference policy comes to, either limb touched; forces and places too."""
    before, _, _ = played("scripted")
    physics = before.physics
    at = np.argwhere((physics.female == female) & (physics.force > 0.5))
    at = tuple(at[:: len(at) // 40][:40].T)
    motion = Motion(physics.qpos[at], physics.qvel[at], physics.warmstart[at])
    model, data = arm(female)
    control = np.random.default_rng(0).uniform(-1, 1, (40, 7)).astype(np.float32)
    after, contact = stepper(female)(motion, control)
    touched = np.zeros(2)
    for n in range(40):
        data.qpos[:], data.qvel[:], data.qacc_warmstart[:] = motion.qpos[n], motion.qvel[n], motion.warmstart[n]
        data.ctrl[:] = control[n]
        mujoco.mj_step(model, data)
        assert np.abs(after.qpos[n] - data.qpos).max() <= 2e-6
        assert np.abs(after.qvel[n] - data.qvel).max() <= 5e-5
        assert contact.found[n].sum() == data.ncon
        for c in range(data.ncon):
            limb = scratch_itch.LIMBS.index(model.geom(min(data.contact[c].geom)).name)
            force = np.zeros(6)
            mujoco.mj_contactForce(model, data, c, force)
            assert contact.force[n, limb] == pytest.approx(force[0], abs=2e-3)
            np.testing.assert_allclose(contact.place[n, limb], data.contact[c].pos, atol=3e-6)
            touched[limb] += 1
    assert touched.min() >= 5


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
    found = jax.jit(jax.vmap(make().init_physics))(KEYS[:4000])
    which = np.abs(np.asarray(found.qpos)[:, None] - poses).max(-1)
    assert which.min(1).max() < 1e-6
    assert stats.chisquare(np.bincount(which.argmin(1), minlength=len(poses))).pvalue > 1e-3
    assert not np.asarray(found.qvel).any()


def test_poses_are_solved_as_those_of_the_bank_were():
    place = np.array([-0.58, 0.02, 0.83])
    model, data = arm()
    pose = scratch_itch_poses.solve(place)
    assert pose is not None
    data.qpos[:] = pose
    mujoco.mj_kinematics(model, data)
    np.testing.assert_allclose(data.body("tool").xpos, place, atol=1e-5)
    assert scratch_itch_poses.solve(np.array([5.0, 0.0, 0.0])) is None


# -- the person and the itch ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "female, upper, fore", [(0, (0.279, 0.043), (0.257, 0.033)), (1, (0.264, 0.0355), (0.234, 0.027))]
)
def test_the_limbs_are_capsules_between_published_joints(female, upper, fore):
    shoulder, elbow = [
        ((-0.179, 0.03, 1.0315), (-0.3185, 0.03, 0.7899)),
        ((-0.159, 0.03, 0.992), (-0.291, 0.03, 0.7634)),
    ][female]
    model, data = arm(bool(female))
    mujoco.mj_forward(model, data)
    wrist = np.array([-0.3185, -0.26, 0.7899] if not female else [-0.291, -0.231, 0.7634])
    ends = {"upper_arm": (np.array(shoulder), np.array(elbow), upper), "forearm": (np.array(elbow), wrist, fore)}
    for name, (start, end, (length, radius)) in ends.items():
        geom = data.geom(name)
        axis = (end - start) / np.linalg.norm(end - start)
        assert abs(geom.xmat.reshape(3, 3)[:, 2] @ axis) == pytest.approx(1.0, abs=1e-6)
        np.testing.assert_allclose(geom.xpos, start + axis * length / 2, atol=1e-6)
        np.testing.assert_allclose(model.geom(name).size[:2], [radius, length / 2], atol=1e-6)
    drawn = jax.jit(jax.vmap(make(female=0.3).init_physics))(KEYS[:4000]).female
    assert stats.binomtest(int(np.sum(drawn)), 4000, 0.3).pvalue > 1e-3


def test_the_itch_is_on_the_skin_that_faces_the_robot():
    contexts = jax.jit(jax.vmap(make().init_context))(KEYS)
    for female in (0.0, 1.0):
        place, normal, axis = jax.jit(jax.vmap(lambda c, f=female: itch_frame(jnp.float32(f), c)))(contexts)
        model, data = arm(bool(female))
        mujoco.mj_forward(model, data)
        for limb, name in enumerate(scratch_itch.LIMBS):
            on = np.asarray(contexts.limb) == limb
            radius, half = model.geom(name).size[:2]
            local = (np.asarray(place)[on] - data.geom(name).xpos) @ data.geom(name).xmat.reshape(3, 3)
            np.testing.assert_allclose(np.linalg.norm(local[:, :2], axis=1), radius, atol=1e-5)
            down = np.sign(np.asarray(axis)[on][0] @ data.geom(name).xmat.reshape(3, 3)[:, 2])
            along = down * local[:, 2] + half  # from the upper joint
            assert stats.kstest((along - radius) / (2 * half - radius), "uniform").pvalue > 1e-3
            robot = scratch_itch.START - data.geom(name).xpos
            assert np.all(np.asarray(normal)[on] @ robot > -1e-5)
    assert stats.binomtest(int(np.sum(contexts.limb)), len(KEYS)).pvalue > 1e-3
    assert stats.kstest(contexts.angle, stats.uniform(-np.pi / 2, np.pi).cdf).pvalue > 1e-3


@pytest.mark.parametrize("options, stays", [({}, 0.2), ({"other": 0.3}, 0.7), ({"iid": True}, 0.5)])
def test_a_switch_moves_the_itch_to_the_other_limb_and_redraws_its_place(options, stays):
    old = Itch(jnp.float32(1), jnp.float32(0.9), jnp.float32(1.2))
    new = jax.jit(jax.vmap(make(**options).next_context, (0, None)))(KEYS, old)
    assert stats.binomtest(int(np.sum(new.limb)), len(KEYS), stays).pvalue > 1e-3
    assert stats.kstest(new.along, "uniform").pvalue > 1e-3
    assert stats.kstest(new.angle, stats.uniform(-np.pi / 2, np.pi).cdf).pvalue > 1e-3


def test_itches_move_nothing_and_are_not_seen():
    """The same actions under other itches: other scratches and rewards, the same motion and observations."""
    before, action, after = played("scripted")
    start = jax.tree.map(lambda x: x[0], before)
    other = start.replace(
        latent_key=jax.random.split(jax.random.key(7), EPISODES), context=jax.tree.map(lambda x: x[::-1], start.context)
    )
    found = replay(make(), other, action)
    for name in ("qpos", "qvel", "force", "tip"):
        np.testing.assert_array_equal(getattr(found.physics, name), getattr(after.physics, name), err_msg=name)
    np.testing.assert_array_equal(found.obs, after.obs)
    assert found.physics.scratches[-1].sum() < 0.5 * after.physics.scratches[-1].sum()


@jax.jit
def replay(env: ScratchItch, start: State, actions: jax.Array) -> State:
    def step(state: State, action: jax.Array) -> tuple[State, State]:
        after = jax.vmap(env.step)(state, action)
        return after, after

    return jax.lax.scan(step, start, actions)[1]


def test_an_agent_that_is_told_sees_the_whole_itch():
    features = make().context_features(Itch(jnp.float32(1), jnp.float32(0.25), jnp.float32(0.5)))
    np.testing.assert_allclose(features, [1, 0.25, np.cos(0.5), np.sin(0.5)], rtol=1e-6)


# -- scratches and reward ------------------------------------------------------------------------------------------


def touch(place: Any, force: float = 3.0, found: bool = True) -> Contact:
    """Of the forearm; the upper arm is not touched."""
    return Contact(
        jnp.array([False, found]), jnp.array([0.0, force]), jnp.stack([jnp.zeros(3), jnp.array(place, jnp.float32)])
    )


ITCH, LAST = jnp.array([0.3, 0.2, 0.1]), jnp.zeros(3)


@pytest.mark.parametrize("away, near", [(0.0249, True), (0.0251, False)])
def test_only_contact_within_25_mm_of_the_itch_scratches(away, near):
    force, scratched, last = scratch(touch([0.3, 0.2, 0.1 + away]), ITCH, LAST)
    assert bool(scratched) == near and float(force) == (3.0 if near else 0.0)
    np.testing.assert_allclose(last, [0.3, 0.2, 0.1 + away] if near else LAST)


@pytest.mark.parametrize("moved, enough", [(0.0099, False), (0.0101, True)])
def test_a_scratch_is_more_than_10_mm_from_the_last(moved, enough):
    place = ITCH + jnp.array([moved, 0.0, 0.0])
    force, scratched, last = scratch(touch(place), ITCH, ITCH)
    assert bool(scratched) == enough and float(force) == 3.0
    np.testing.assert_allclose(last, place if enough else ITCH)


@pytest.mark.parametrize("force, soft", [(9.99, True), (10.0, False)])
def test_force_of_10_n_is_no_scratch(force, soft):
    on_itch, scratched, last = scratch(touch(ITCH, force), ITCH, LAST)
    assert bool(scratched) == soft and float(on_itch) == pytest.approx(force)
    np.testing.assert_allclose(last, ITCH if soft else LAST)


def test_no_contact_is_no_scratch_and_the_harder_of_two_is_where_it_was():
    assert not bool(scratch(touch(ITCH, found=False), ITCH, LAST)[1])
    both = Contact(jnp.array([True, True]), jnp.array([2.0, 3.0]), jnp.stack([ITCH, ITCH + 0.01]))
    force, scratched, last = scratch(both, ITCH, LAST)
    assert float(force) == 5.0 and bool(scratched)
    np.testing.assert_allclose(last, ITCH + 0.01)


def test_a_step_and_its_reward_are_those_of_c_mujoco_and_numpy():
    """Whole steps of the reference policy, its contacts, scratches and the original's terms computed apart from JAX."""
    before, action, after = played("scripted")
    rng, scratches, elsewhere, compared = np.random.default_rng(0), 0, 0, 0
    people = [arm(bool(female)) for female in (0, 1)]
    for t, n in zip(rng.integers(0, 200, 400), rng.integers(0, EPISODES, 400), strict=True):
        now, context, then = jax.tree.map(lambda x, t=t, n=n: x[t, n], (before.physics, before.context, after))
        model, data = people[int(now.female)]
        data.qpos[:], data.qvel[:], data.qacc_warmstart[:] = now.qpos, now.qvel, now.warmstart
        limits = np.where(model.jnt_limited[:, None], model.jnt_range, [-np.inf, np.inf]).T
        target = np.clip(data.qpos + 0.25 * action[t, n], *limits)
        for _ in range(5):
            data.ctrl[:] = servo(data, target)
            mujoco.mj_step(model, data)
        itch = np.asarray(itch_frame(jnp.asarray(now.female), jax.tree.map(jnp.asarray, context))[0])
        total = on_itch = hardest = 0.0
        place, border = None, False
        for c in range(data.ncon):
            force = np.zeros(6)
            mujoco.mj_contactForce(model, data, c, force)
            total += force[0]
            away = np.linalg.norm(data.contact[c].pos - itch)
            border |= abs(away - 0.025) < 1e-4
            if away < 0.025:
                on_itch += force[0]
                if force[0] >= hardest:
                    hardest, place = force[0], data.contact[c].pos.copy()
        moved = np.inf if place is None else np.linalg.norm(place - now.last)
        if border or abs(moved - 0.01) < 1e-4 or abs(on_itch - 10) < 0.05:
            continue
        scratched = place is not None and moved > 0.01 and on_itch < 10.0
        mujoco.mj_kinematics(model, data)
        mujoco.mj_comPos(model, data)
        moves = np.zeros((3, 7))
        mujoco.mj_jac(model, data, moves, None, data.body("tool").xpos, model.body("tool").id)
        reward = 5.0 * scratched - np.linalg.norm(itch - data.geom("tip").xpos) - 0.01 * np.linalg.norm(action[t, n])
        reward -= 0.25 * np.linalg.norm(moves @ data.qvel) + 0.01 * (total - on_itch)
        reward -= 0.05 * on_itch if on_itch >= 10.0 else 0.0
        np.testing.assert_allclose(then.physics.qpos, data.qpos, atol=2e-5)
        assert then.physics.scratches - now.scratches == scratched
        assert then.physics.force == pytest.approx(total, rel=0.1, abs=0.02)  # just as it lands, small errors are large
        assert then.reward == pytest.approx(reward, abs=2e-3)
        np.testing.assert_allclose(then.physics.tip, data.geom("tip").xpos, atol=2e-5)
        scratches, elsewhere, compared = scratches + scratched, elsewhere + (total > on_itch + 0.1), compared + 1
    assert compared > 350 and scratches > 20 and elsewhere > 5


@pytest.mark.parametrize(
    "weight", ["scratch_reward", "distance_cost", "action_cost", "velocity_cost", "elsewhere_cost"]
)
def test_a_preference_of_the_person_weighs_its_term(weight):
    """Doubling one changes the rewards by as much as it was worth; what is done stays the same."""
    before, action, after = played("scripted")
    env = make()
    doubled = env.replace(**{weight: 2.0 * getattr(env, weight)})
    pick = jax.tree.map(lambda x: x[150], before)
    again = again_under(doubled, pick, action[150])
    difference = np.asarray(again.reward) - after.reward[150]
    assert np.abs(difference).max() > 1e-3
    assert np.all(difference >= 0) if weight == "scratch_reward" else np.all(difference <= 1e-6)
    np.testing.assert_array_equal(again.physics.qpos, after.physics.qpos[150])


@jax.jit
def again_under(env: ScratchItch, states: State, actions: jax.Array) -> State:
    return jax.vmap(env.step)(states, actions)


def test_hard_force_on_the_itch_costs():
    """In states in which the tip is driven into the skin."""
    before, action, _ = played("scripted")
    env = make()
    free = env.replace(hard_cost=jnp.float32(0.0))
    found = 0
    for t in range(40, 200, 20):
        deep, actions = jax.tree.map(lambda x, t=t: x[t], (before, action))
        deep = deep.replace(physics=deep.physics.replace(qvel=deep.physics.qvel + towards_itch(env, deep)))
        with_cost, without = again_under(env, deep, actions), again_under(free, deep, actions)
        costs, force = np.asarray(without.reward - with_cost.reward), np.asarray(with_cost.physics.force)
        hard = costs > 1e-6  # the whole force is on the itch, unless both limbs are touched
        assert np.all((costs[hard] >= 0.5) & (costs[hard] <= 0.05 * force[hard] * 1.001))
        found += np.sum(np.isclose(costs[hard], 0.05 * force[hard], rtol=1e-3))
    assert found >= 10


def towards_itch(env: ScratchItch, states: State) -> jax.Array:
    """Joint velocities that drive the tip into the skin at 1.5 m/s."""

    def one(state: State) -> jax.Array:
        _, normal, _ = itch_frame(state.physics.female, state.context)
        pose = env.simulator.pose(state.physics.qpos)
        moves = scratch_itch.jacobian(pose, state.physics.tip)
        return moves @ jnp.linalg.solve(moves.T @ moves + 1e-4 * jnp.eye(3), -1.5 * normal)

    return jax.vmap(one)(jax.tree.map(jnp.asarray, states))


def test_observations_are_in_the_frame_of_the_robots_base():
    _, _, after = played("random")
    model, data = arm()
    base = model.body("base")
    frame = np.zeros(9)
    mujoco.mju_quat2Mat(frame, base.quat)
    frame = frame.reshape(3, 3)
    for n in range(5):
        physics = jax.tree.map(lambda x, n=n: x[100, n], after.physics)
        data.qpos[:] = physics.qpos
        mujoco.mj_forward(model, data)
        obs, sex = after.obs[100, n], int(physics.female)
        assert obs.shape == (24,)
        np.testing.assert_allclose(obs[:3], frame.T @ (data.geom("tip").xpos - base.pos), atol=1e-5)
        turned = np.zeros(9)
        mujoco.mju_quat2Mat(turned, obs[3:7].astype(float))
        np.testing.assert_allclose(turned.reshape(3, 3), frame.T @ data.body("tool").xmat.reshape(3, 3), atol=1e-5)
        np.testing.assert_allclose(np.exp(1j * obs[7:14]), np.exp(1j * physics.qpos), atol=1e-5)
        assert np.abs(obs[7:14]).max() <= np.pi
        joints = np.stack([x[sex] for x in (scratch_itch.SHOULDER, scratch_itch.ELBOW, scratch_itch.WRIST)])
        np.testing.assert_allclose(obs[14:23].reshape(3, 3), (joints - base.pos) @ frame, atol=1e-5)
        assert obs[23] == physics.force


# -- behaviour -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy, low, high", [("nothing", -75, -35), ("random", -120, -40)])
def test_who_does_not_scratch_pays_as_in_the_original(policy, low, high):
    _, _, after = played(policy)
    returns = after.reward.sum(0)
    assert low < returns.mean() < high
    assert ((low < returns) & (returns < high)).mean() > 0.8
    assert np.asarray(after.physics.scratches[-1]).mean() < 1


def test_the_reference_policy_scratches_as_in_the_original():
    """Published: 125 to 156 on average, about 30 scratches, 25 in 40 % of episodes or more, a median of about 4 N."""
    _, _, after = played("scripted")
    scratches, force = after.physics.scratches[-1], after.physics.force
    outcomes = make().outcomes(jax.tree.map(lambda x: x[-1], after.physics))
    assert 110 < after.reward.sum(0).mean() < 160
    assert 25 < scratches.mean() < 35
    assert np.asarray(outcomes["success"]).mean() >= 0.4
    np.testing.assert_array_equal(outcomes["success"], scratches >= 25)
    assert 2.5 < np.median(force[force > 0]) < 5.0


# -- options -------------------------------------------------------------------------------------------------------


def test_the_defaults_are_those_of_the_spec():
    env = make()
    assert (env.horizon, float(env.p), env.observation_size, env.action_space.size) == (200, np.float32(0.02), 24, 7)
    assert env.simulator.dt == pytest.approx(0.1) and float(env.female) == 0.5
    assert not env.reset_on_switch and not env.decode_state and env.references() == {}


@pytest.mark.parametrize(
    "option, value",
    [("female", 1.5), ("other", -0.1), ("iid", 1), ("action_cost", -1.0), ("reset_on_switch", True), ("impl", "warp")],
)
def test_an_option_that_can_not_be_is_refused(option, value):
    with pytest.raises(ValueError, match=option):
        make(**{option: value})


def test_an_option_that_would_change_nothing_is_refused():
    with pytest.raises(ValueError, match="other is 0.5; where iid is True it would change nothing"):
        make(iid=True, other=0.5)
