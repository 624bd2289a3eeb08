"""The C engine inside compiled programs: the bits of a plain loop over `mj_step`, whatever surrounds the call."""

import dataclasses
import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import mujoco as untyped
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, PartitionSpec

from dynamite_envs import registry
from dynamite_envs.half_cheetah import BODY
from dynamite_envs.physics import backend, c, mujoco_batch
from dynamite_envs.physics.backend import Contact, Motion, Pose, Simulator
from dynamite_envs.physics.mujoco_batch import Stepper
from dynamite_envs.reacher import ARM
from dynamite_envs.scratch_itch import poses
from dynamite_envs.scratch_itch.env import ROBOT

mujoco: Any = untyped
MODELS = {"half_cheetah": BODY, "reacher": ARM, "scratch_itch": ROBOT}
ENVIRONMENTS, STEPS = 96, 12


def single(numbers: Any) -> Any:
    """In the precision in which programs hold them."""
    return np.asarray(numbers, np.float32)


@dataclasses.dataclass(frozen=True)
class Episodes:
    """Controls of many environments, and what a loop over `mj_step` makes of them in single precision."""

    simulator: Simulator
    start: Motion  # [N, ...]
    control: np.ndarray  # [T, N, nu]
    applied: np.ndarray  # [T, N, nv]
    states: Motion  # after each step, [T, N, ...]


@functools.cache
def episodes(name: str) -> Episodes:
    simulator = dataclasses.replace(MODELS[name], impl="c")
    model, rng = simulator.model, np.random.default_rng(0)
    qpos = single(model.qpos0 + rng.uniform(-0.1, 0.1, (ENVIRONMENTS, model.nq)))
    if name == "scratch_itch":
        qpos = single(poses.load()[:ENVIRONMENTS])
    qvel = single(rng.normal(size=(ENVIRONMENTS, model.nv)))
    control = single(rng.uniform(-1.2, 1.2, (STEPS, ENVIRONMENTS, model.nu)))
    applied = single(0.1 * rng.normal(size=(STEPS, ENVIRONMENTS, model.nv)))
    start = Motion(qpos, qvel, 0.0 * qvel)
    rows = [[] for _ in range(STEPS)]
    data = mujoco.MjData(model)
    for n in range(ENVIRONMENTS):
        mujoco.mj_resetData(model, data)
        now = jax.tree.map(lambda x, n=n: x[n], start)
        for t in range(STEPS):
            data.qpos[:], data.qvel[:], data.qacc_warmstart[:] = now.qpos, now.qvel, now.warmstart
            data.ctrl[:], data.qfrc_applied[:] = control[t, n], applied[t, n]
            for _ in range(simulator.substeps):
                mujoco.mj_step(model, data)
            now = Motion(*(single(x) for x in (data.qpos, data.qvel, data.qacc_warmstart)))
            rows[t].append(now)
    states = jax.tree.map(lambda *x: np.stack(x).reshape(STEPS, ENVIRONMENTS, -1), *(m for row in rows for m in row))
    return Episodes(simulator, start, control, applied, states)


def rollout(step: Any, start: Motion, control: Any, applied: Any) -> tuple[Motion, Motion]:
    """The last state and all states of a scan over `step`."""

    def advance(motion: Motion, inputs: tuple[Any, Any]) -> tuple[Motion, Motion]:
        after = step(motion, *inputs)
        return after, after

    return jax.lax.scan(advance, start, (control, applied))


def assert_bits(states: Motion, expected: Motion) -> None:
    for name in ("qpos", "qvel", "warmstart"):
        np.testing.assert_array_equal(getattr(states, name), getattr(expected, name), err_msg=name)


# -- the same bits, however it is called ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("size", [1, 3, 32, 96])
def test_batches_of_any_size_have_the_bits_of_a_loop(name, size):
    known = episodes(name)
    run = jax.jit(functools.partial(rollout, jax.vmap(known.simulator.advance)))
    for first in range(0, ENVIRONMENTS if size > 1 else 4, size):
        here = slice(first, first + size)
        start = jax.tree.map(lambda x, here=here: jnp.array(x[here]), known.start)
        _, states = run(start, known.control[:, here], known.applied[:, here])
        assert_bits(states, jax.tree.map(lambda x, here=here: x[:, here], known.states))


@pytest.mark.parametrize("name", MODELS)
def test_nested_batches_on_two_devices_with_a_donated_state_have_them_too(name):
    known = episodes(name)
    mesh = Mesh(np.array(jax.devices()[:2]), ("seed",), axis_types=(AxisType.Auto,))
    seeds, later_seeds = PartitionSpec("seed"), PartitionSpec(None, "seed")
    step = functools.partial(rollout, jax.vmap(jax.vmap(known.simulator.advance)))
    run = jax.shard_map(
        step, mesh=mesh, in_specs=(seeds, later_seeds, later_seeds), out_specs=(seeds, later_seeds), check_vma=False
    )
    start = jax.device_put(jax.tree.map(lambda x: x.reshape(4, 24, -1), known.start), jax.NamedSharding(mesh, seeds))
    control, applied = (x.reshape(STEPS, 4, 24, -1) for x in (known.control, known.applied))
    _, states = jax.jit(run, donate_argnums=0)(start, control, applied)
    assert all(x.is_deleted() for x in jax.tree.leaves(start))
    assert_bits(jax.tree.map(lambda x: np.asarray(x).reshape(STEPS, ENVIRONMENTS, -1), states), known.states)


def rows_of(known: Episodes, step: int = 0) -> np.ndarray:
    """Arguments of a `Stepper`."""
    parts = (known.start.qpos, known.start.qvel, known.start.warmstart, known.control[step], known.applied[step])
    return np.concatenate(parts, axis=1)


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("name", MODELS)
def test_threads_change_no_bit(name, threads):
    known = episodes(name)
    stepper = Stepper(str(known.simulator.file), known.simulator.substeps)
    stepper.threads = threads
    rows = rows_of(known)
    result = np.empty((ENVIRONMENTS, stepper.layout.result), np.float32)
    stepper(rows, result)
    after = jax.tree.map(lambda x: x[0], known.states)
    np.testing.assert_array_equal(result, np.concatenate(jax.tree.leaves(after), axis=1))


def test_a_single_device_uses_all_cores_and_each_of_two_its_share(monkeypatch):
    for devices, cores, threads in ((1, 8, 8), (2, 8, 4), (4, 2, 1)):
        monkeypatch.setattr(jax, "local_device_count", lambda devices=devices: devices)
        monkeypatch.setattr(c, "cores", lambda cores=cores: cores)
        key, _ = c._load(BODY, variants={}, details=False)
        assert c._steppers[key.encode()].threads == threads


@pytest.mark.parametrize("name", MODELS)
def test_numbers_too_small_for_xla_are_kept(name):
    """XLA's threads flush them to zero, and MuJoCo's bits must not depend on who calls it."""
    known = episodes(name)
    small = np.full_like(known.start.qvel, 1e-41)
    start = known.start.replace(qvel=small, warmstart=-small)
    control = np.full_like(known.control[0], 2e-42)
    applied = np.full_like(known.applied[0], 1e-43)
    after = jax.jit(jax.vmap(known.simulator.advance))(start, control, applied)
    model = known.simulator.model
    data = mujoco.MjData(model)
    for n in range(8):
        data.qpos[:], data.qvel[:], data.qacc_warmstart[:] = start.qpos[n], start.qvel[n], start.warmstart[n]
        data.ctrl[:], data.qfrc_applied[:] = control[n], applied[n]
        assert data.qvel.all() and data.ctrl.all()
        for _ in range(known.simulator.substeps):
            mujoco.mj_step(model, data)
        np.testing.assert_array_equal(after.qvel[n], single(data.qvel))


def test_double_precision_is_mujocos_own():
    known = episodes("half_cheetah")
    inputs = (known.start, known.control[0], known.applied[0])
    jax.clear_caches()
    with jax.enable_x64(True):
        inputs = jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), inputs)
        after = jax.jit(jax.vmap(known.simulator.advance))(*inputs)
    jax.clear_caches()
    model = BODY.model
    data = mujoco.MjData(model)
    for n in range(8):
        data.qpos[:], data.qvel[:], data.qacc_warmstart[:] = (x[n] for x in jax.tree.leaves(known.start))
        data.ctrl[:], data.qfrc_applied[:] = known.control[0, n], known.applied[0, n]
        for _ in range(BODY.substeps):
            mujoco.mj_step(model, data)
        assert after.qpos.dtype == np.float64
        np.testing.assert_array_equal(after.qpos[n], data.qpos)


# -- contacts and changed geoms ------------------------------------------------------------------------------------


def test_contacts_of_changed_geoms_are_those_of_mujoco():
    """Limbs of random sizes about the tip, each row its own: none, one or both touched."""
    simulator = dataclasses.replace(ROBOT, substeps=1, impl="c")
    model, rng = mujoco.MjModel.from_xml_path(str(ROBOT.file)), np.random.default_rng(0)
    data = mujoco.MjData(model)
    data.qpos[:] = poses.load()[0]
    mujoco.mj_forward(model, data)
    tip, limbs = data.geom("tip").xpos.copy(), [model.geom(name).id for name in ("upper_arm", "forearm")]
    n = 64
    variants = {name: np.tile(getattr(model, name), (n, 1, 1)) for name in mujoco_batch.CHANGEABLE}
    variants["geom_pos"][:, limbs] = tip + rng.uniform(-0.2, 0.2, (n, 2, 3))
    variants["geom_size"][:, limbs, :2] = rng.uniform(0.01, 0.2, (n, 2, 2))
    qpos, qvel = single(np.tile(poses.load()[0], (n, 1))), single(rng.normal(size=(n, 7)))
    motion = Motion(qpos, qvel, 0.0 * qvel)
    control = motion.qpos + single(rng.uniform(-0.2, 0.2, (n, 7)))
    variant = rng.permutation(n)

    def step(motion: Motion, control: jax.Array, variant: jax.Array) -> tuple[Motion, Contact, Pose]:
        return simulator.advance_chain(motion, control, jnp.zeros(7), variants=variants, variant=variant)

    after, contact, pose = jax.jit(jax.vmap(step))(motion, control, variant)
    touched = np.zeros(3, int)
    for row in range(n):
        for name, values in variants.items():
            getattr(model, name)[:] = values[variant[row]]
        model.geom_rbound[limbs] = model.geom_size[limbs, 0] + model.geom_size[limbs, 1]
        data.qpos[:], data.qvel[:], data.qacc_warmstart[:] = motion.qpos[row], motion.qvel[row], 0.0
        data.ctrl[:] = control[row]
        mujoco.mj_step(model, data)
        np.testing.assert_array_equal(after.qvel[row], single(data.qvel))
        touched[data.ncon] += 1
        expected = {limb: (0.0, np.zeros(3)) for limb in limbs}
        for k in range(data.ncon):
            force = np.zeros(6)
            mujoco.mj_contactForce(model, data, k, force)
            expected[min(data.contact[k].geom)] = force[0], data.contact[k].pos.copy()
        touching = [limb in {min(x.geom) for x in data.contact} for limb in limbs]
        np.testing.assert_array_equal(contact.touching[row], touching)
        np.testing.assert_array_equal(contact.force[row], single([force for force, _ in expected.values()]))
        np.testing.assert_array_equal(contact.place[row], single([place for _, place in expected.values()]))
        mujoco.mj_kinematics(model, data)  # at the end of the step
        for name, values in (("xpos", pose.position), ("xquat", pose.quaternion), ("xanchor", pose.anchor)):
            np.testing.assert_array_equal(values[row], single(getattr(data, name)), err_msg=name)
        np.testing.assert_array_equal(pose.axis[row], single(data.xaxis))
    assert touched.min() >= 5


def test_a_geom_that_grows_is_not_overlooked():
    """Collisions are sorted out by bounding spheres, which must grow with it."""
    simulator = dataclasses.replace(ROBOT, substeps=1, impl="c")
    model, qpos = ROBOT.model, jnp.asarray(poses.load()[0], jnp.float32)
    motion = Motion(qpos, 0.0 * qpos, 0.0 * qpos)
    sizes = np.tile(model.geom_size, (2, 1, 1))
    sizes[1, model.geom("upper_arm").id, 0] = 0.6

    @jax.jit
    def touching(variant: jax.Array) -> jax.Array:
        inputs = {"variants": {"geom_size": sizes}, "variant": variant}
        return simulator.advance_chain(motion, qpos, 0.0 * qpos, **inputs)[1].touching[0]

    assert [bool(touching(variant)) for variant in (0, 1, 0, 1, 1)] == [False, True, False, True, True]


def test_only_geoms_can_change():
    qpos = jnp.zeros(7)
    robot, motion = dataclasses.replace(ROBOT, impl="c"), Motion(qpos, qpos, qpos)
    inputs = {"variants": {"body_mass": np.ones((2, ROBOT.model.nbody))}, "variant": jnp.zeros(())}
    with pytest.raises(ValueError, match="variants have body_mass; they may have geom_pos, geom_quat, geom_size"):
        robot.advance_chain(motion, qpos, qpos, **inputs)


# -- what is broken ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MODELS)
def test_what_is_not_finite_stays_in_its_environment_and_makes_no_noise(name, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    known = episodes(name)
    start, control = jax.tree.map(np.array, known.start), known.control.copy()
    start.qpos[3, 1], start.qvel[4, 0], start.warmstart[5, 1] = np.nan, np.inf, -np.inf
    start.qvel[6, 1], start.qpos[7, 0] = 1e11, 1e38
    control[2, 8, 1], control[0, 9, 0] = np.nan, np.inf
    broken, late = [3, 4, 5, 6, 7, 9], 8
    run = jax.jit(functools.partial(rollout, jax.vmap(known.simulator.advance)))
    for _ in range(2):  # the second call meets what the first one left
        _, states = run(jax.tree.map(jnp.array, start), control, known.applied)
        for leaf, expected in zip(jax.tree.leaves(states), jax.tree.leaves(known.states), strict=True):
            sound = np.setdiff1d(np.arange(ENVIRONMENTS), [*broken, late])
            np.testing.assert_array_equal(leaf[:, sound], expected[:, sound])
            np.testing.assert_array_equal(leaf[:2, late], expected[:2, late])
            assert np.isnan(leaf[:, broken]).all() and np.isnan(leaf[2:, late]).all()
    assert capfd.readouterr() == ("", "") and not list(tmp_path.iterdir())


def test_a_batch_may_be_broken_as_a_whole():
    """As the actions of a policy are whose weights are not finite."""
    known = episodes("half_cheetah")
    step = jax.jit(jax.vmap(known.simulator.advance))
    after = step(known.start, np.full_like(known.control[0], np.nan), known.applied[0])
    assert all(np.isnan(x).all() for x in jax.tree.leaves(after))
    after = step(known.start, known.control[0], known.applied[0])
    assert_bits(after, jax.tree.map(lambda x: x[0], known.states))


def with_memory(tmp_path: Path, amount: str) -> Stepper:
    text = BODY.file.read_text()
    (tmp_path / "small.xml").write_text(text.replace("<option ", f'<size memory="{amount}"/><option ', 1))
    return Stepper(str(tmp_path / "small.xml"), 1)


def fallen(stepper: Stepper, rows: int) -> np.ndarray:
    """Every other cheetah lies on the ground."""
    row = np.zeros((rows, stepper.layout.inputs), np.float32)
    row[::2, 1] = -0.6
    return row


def test_contacts_that_find_no_room_are_no_silent_error(tmp_path, capfd, monkeypatch):
    monkeypatch.chdir(tmp_path)
    stepper, roomy = with_memory(tmp_path, "18400"), with_memory(tmp_path, "1M")
    rows = fallen(stepper, 6)
    result, expected = (np.empty((6, stepper.layout.result), np.float32) for _ in range(2))
    for _ in range(2):
        stepper(rows, result)
        roomy(rows, expected)
        assert np.isnan(result[::2]).all()
        np.testing.assert_array_equal(result[1::2], expected[1::2])
    assert capfd.readouterr() == ("", "") and not (tmp_path / "MUJOCO_LOG.TXT").exists()


def test_an_error_of_the_engine_is_an_exception(tmp_path, monkeypatch):
    """By itself MuJoCo would end the process."""
    stepper = with_memory(tmp_path, "2K")
    rows = fallen(stepper, 2)
    result = np.empty((2, stepper.layout.result), np.float32)
    with pytest.raises(Exception, match="stack overflow"):
        stepper(rows, result)
    monkeypatch.setattr(backend, "ASSETS", tmp_path)
    step = jax.jit(jax.vmap(Simulator("small", 1, "c").advance))
    with pytest.raises(jax.errors.JaxRuntimeError, match="stack overflow"):
        jax.block_until_ready(step(Motion(*jnp.split(rows[:, :27], 3, axis=1)), rows[:, 27:33], rows[:, 33:]))


def test_a_gradient_through_physics_is_refused():
    known = episodes("reacher")
    motion = jax.tree.map(lambda x: jnp.array(x[0]), known.start)

    def loss(control: jax.Array) -> jax.Array:
        return jnp.sum(known.simulator.advance(motion, control, jnp.zeros(2)).qpos)

    with pytest.raises(TypeError, match="C MuJoCo has no gradient; impl 'jax' has"):
        jax.grad(loss)(jnp.zeros(2))


@pytest.mark.parametrize(
    "before, added, reason",
    [
        ("</mujoco>", '<sensor><jointpos joint="rooty"/></sensor>', "activations, delays or sensors"),
        ("</worldbody>", '<geom type="ellipsoid" size="0.1 0.2 0.3"/>', "bounding spheres are not known"),
    ],
    ids=["sensor", "ellipsoid"],
)
def test_a_model_that_rows_have_no_place_for_is_refused(before, added, reason, tmp_path):
    (tmp_path / "other.xml").write_text(BODY.file.read_text().replace(before, added + before))
    with pytest.raises(ValueError, match=reason):
        Stepper(str(tmp_path / "other.xml"), 1)


# -- for long ------------------------------------------------------------------------------------------------------


def resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 2**20


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is read from Linux's /proc")
@pytest.mark.parametrize("name", ["halfcheetah_wind", "reacher", "scratch_itch"])
def test_ten_thousand_steps_under_full_torque_stay_finite_and_leak_nothing(name):
    env = registry.make(name)

    @jax.jit
    def play(env: Any, state: Any, key: jax.Array) -> tuple[Any, jax.Array]:
        def step(state: Any, key: jax.Array) -> tuple[Any, jax.Array]:
            action = jax.random.rademacher(key, (4, env.action_space.size), jnp.float32)
            state = jax.vmap(env.step)(state, action)
            return state, jnp.all(jnp.isfinite(state.obs)) & jnp.all(jnp.isfinite(state.reward))

        return jax.lax.scan(step, state, jax.random.split(key, 1000))

    state = jax.vmap(env.reset)(jax.random.split(jax.random.key(0), 4))
    memory = []
    for part in range(10):
        state, finite = play(env, state, jax.random.key(part))
        assert bool(jnp.all(finite))
        memory.append(resident_mb())
    assert memory[-1] - memory[1] < 8
