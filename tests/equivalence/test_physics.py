"""Physics backends against C MuJoCo, and our models against Gymnasium's."""

import dataclasses
import functools
from pathlib import Path
from typing import Any

import gymnasium
import jax
import jax.numpy as jnp
import mujoco as untyped
import numpy as np
import pytest

from dynamite_envs import registry
from dynamite_envs.errors import UserError
from dynamite_envs.half_cheetah import BODY, HalfCheetah, Task
from dynamite_envs.physics import backend as physics
from dynamite_envs.physics.backend import Motion, Simulator
from dynamite_envs.physics.warp import Warp
from dynamite_envs.reacher import ARM, Reacher

mujoco: Any = untyped
mujoco.set_mju_user_warning(lambda text: None)  # it would leave a log file in the current folder

BATCH = 40  # every jitted step of this file takes as many environments, so that each model compiles once
TEMPLATE = Path(gymnasium.__file__).parent / "envs" / "mujoco" / "assets"
OPTIONS = ("timestep", "gravity", "integrator", "solver", "cone", "impratio", "disableflags", "enableflags", "jacobian")


def gymnasiums(name: str) -> Any:
    return mujoco.MjModel.from_xml_path(str(TEMPLATE / f"{name}.xml"))


@pytest.fixture(params=["jax", "c"])
def impl(request) -> str:
    return request.param


@functools.cache
def stepper(simulator: Simulator, x64: bool = False):
    """The compiled step of a batch."""
    model, kind = simulator.model, np.float64 if x64 else np.float32
    shapes = (Motion(model.nq, model.nv, model.nv), model.nu, model.nv)
    jax.clear_caches()  # parts of MJX that were traced in the other precision would be taken up again
    with jax.enable_x64(x64):
        inputs = jax.tree.map(lambda size: jax.ShapeDtypeStruct((BATCH, size), kind), shapes)
        step = jax.jit(jax.vmap(simulator.advance)).lower(*inputs).compile()
    jax.clear_caches()

    def run(motion: Motion, control: np.ndarray, applied: np.ndarray) -> Motion:
        with jax.enable_x64(x64):
            # A copy, since JAX may still read NumPy's memory when C MuJoCo writes it again.
            args = jax.tree.map(lambda x: jnp.array(np.array(x, kind)), (motion, control, applied))
            return jax.tree.map(np.asarray, jax.block_until_ready(step(*args)))

    return run


def c_steps(model: Any, start: Motion, *, substeps: int, controls: np.ndarray, applied: np.ndarray) -> list[Motion]:
    """States before the first and after every step of C MuJoCo."""
    data = mujoco.MjData(model)
    data.qpos[:], data.qvel[:], data.qacc_warmstart[:] = start.qpos, start.qvel, start.warmstart
    motions = [start]
    for control, force in zip(controls, applied, strict=True):
        data.ctrl[:], data.qfrc_applied[:] = control, force
        for _ in range(substeps):
            mujoco.mj_step(model, data)
        motions.append(Motion(data.qpos.copy(), data.qvel.copy(), data.qacc_warmstart.copy()))
    return motions


def start_of(model: Any, rng: np.random.Generator) -> Motion:
    """A cheetah or an arm about to move."""
    qpos: Any = model.qpos0 + rng.uniform(-0.1, 0.1, model.nq)
    qvel: Any = 0.1 * rng.normal(size=model.nv)
    return Motion(qpos, qvel, 0.0 * qvel)


def stacked(motions: list[Motion]) -> Motion:
    return jax.tree.map(lambda *x: np.stack(x), *motions)


def cheetah_run(wind: float, seed: int = 0, steps: int = BATCH) -> tuple[Motion, np.ndarray, np.ndarray]:
    """Gymnasium's model in C under random actions: states [steps + 1], controls, forces."""
    rng = np.random.default_rng(seed)
    model = gymnasiums("half_cheetah")
    start = start_of(model, rng)
    controls, applied = rng.uniform(-1, 1, (steps, 6)), np.zeros((steps, 9))
    applied[:, 0] = wind
    return stacked(c_steps(model, start, substeps=BODY.substeps, controls=controls, applied=applied)), controls, applied


def error(a: Motion, b: Motion) -> tuple[float, float]:
    return float(np.abs(a.qpos - b.qpos).max()), float(np.abs(a.qvel - b.qvel).max())


# -- models --------------------------------------------------------------------------------------------------------


def test_the_half_cheetah_is_gymnasiums():
    ours, theirs = BODY.model, gymnasiums("half_cheetah")
    assert ours.body_mass.sum() == pytest.approx(14.0, abs=1e-12)
    prefixes = ("body_", "jnt_", "dof_", "actuator_", "geom_", "qpos", "exclude_", "pair_", "eq_", "tendon_")
    compared = 0
    for name in dir(theirs):
        a, b = getattr(ours, name), getattr(theirs, name)
        if isinstance(b, np.ndarray) and name.startswith(prefixes) and name not in APPEARANCE:
            np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-14, err_msg=name)
            compared += 1
    assert compared > 100
    for name in OPTIONS:
        np.testing.assert_array_equal(getattr(ours.opt, name), getattr(theirs.opt, name), err_msg=name)
    assert (ours.opt.iterations, ours.opt.ls_iterations) == (4, 4)


APPEARANCE = ("geom_rgba", "geom_matid", "geom_user", "body_user", "jnt_user", "actuator_user", "tendon_user")


def test_the_reacher_is_gymnasiums_arm():
    ours, theirs = ARM.model, gymnasiums("reacher")
    for name in ("body_pos", "body_mass", "body_inertia", "body_ipos", "body_iquat"):
        np.testing.assert_allclose(getattr(ours, name)[1:4], getattr(theirs, name)[1:4], rtol=1e-12, err_msg=name)
    for prefix in ("jnt_", "dof_"):
        for name in (name for name in dir(theirs) if name.startswith(prefix) and not name.endswith(("num", "user"))):
            if len(a := getattr(ours, name)) == 2 and name not in ("dof_Madr", "dof_length"):
                np.testing.assert_allclose(a, getattr(theirs, name)[:2], rtol=1e-12, err_msg=name)
    np.testing.assert_array_equal(ours.actuator_gear, theirs.actuator_gear)
    np.testing.assert_array_equal(ours.actuator_ctrlrange, theirs.actuator_ctrlrange)
    for name in OPTIONS:
        np.testing.assert_array_equal(getattr(ours.opt, name), getattr(theirs.opt, name), err_msg=name)
    assert ours.nq == 2 and not ours.geom_contype.any()


# -- half-cheetah --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("x64, position, velocity", [(True, 1e-12, 1e-10), (False, 5e-5, 1e-3)])
@pytest.mark.parametrize("wind", [0.0, 20.0])
def test_a_step_of_the_half_cheetah_is_that_of_c_mujoco(impl, x64, position, velocity, wind):
    """Gymnasium's solver makes up to 100 iterations and 50 of the line search, ours 4 and 4."""
    states, controls, applied = cheetah_run(wind)
    before, after = jax.tree.map(lambda x: x[:-1], states), jax.tree.map(lambda x: x[1:], states)
    result = stepper(BODY.run_by(impl, None), x64)(before, controls, applied)
    assert result.qpos.dtype == (np.float64 if x64 else np.float32)
    qpos, qvel = error(result, after)
    assert qpos <= position and qvel <= velocity
    if not x64:
        speed = [(x.qpos[:, 0] - before.qpos[:, 0].astype(np.float32)) / BODY.dt for x in (result, after)]
        assert np.abs(speed[0] - speed[1]).max() <= 5e-4


def open_loop(simulator: Simulator, reference: Any, *, x64: bool, steps: int, torque: float) -> np.ndarray:
    """Largest error of a position in each of `BATCH` trajectories that are never corrected.

    Controls are sines of 1 to 3 Hz. At full torque the cheetah hits the ground, and the arm its limit, so hard that in
    a second some trajectories multiply rounding by 1e5, whatever computes them; at a third or a tenth of it none does.
    """
    rng = np.random.default_rng(1)
    nq, nu = reference.nq, reference.nu
    starts = [start_of(reference, rng) for _ in range(BATCH)]
    time = np.arange(steps)[:, None, None] * simulator.dt
    frequency, phase = rng.uniform(1, 3, (BATCH, 1)), rng.uniform(0, 2 * np.pi, (BATCH, nu))
    controls, none = torque * np.sin(2 * np.pi * frequency * time + phase), np.zeros((steps, nq))
    references = [
        c_steps(reference, start, substeps=simulator.substeps, controls=controls[:, n], applied=none)
        for n, start in enumerate(starts)
    ]
    motion, worst = stacked(starts), np.zeros(BATCH)
    for t in range(steps):
        motion = stepper(simulator, x64)(motion, controls[t], np.zeros((BATCH, nq)))
        here = stacked([each[t + 1] for each in references])
        worst = np.maximum(worst, np.abs(motion.qpos - here.qpos).max(1))
    return worst


def test_the_half_cheetah_stays_with_gymnasiums_for_a_second(impl):
    """Against their own model, uncorrected."""
    body = BODY.run_by(impl, None)
    assert open_loop(body, gymnasiums("half_cheetah"), x64=False, steps=20, torque=0.3).max() <= 1e-4
    assert np.median(open_loop(body, gymnasiums("half_cheetah"), x64=True, steps=20, torque=1.0)) <= 1e-10


def test_a_step_starts_from_the_warm_start(impl, tmp_path, monkeypatch):
    """One iteration that starts from the solution stays there, and from rest does not reach it everywhere."""
    text = (physics.ASSETS / "half_cheetah.xml").read_text()
    (tmp_path / "once.xml").write_text(text.replace(' iterations="4"', ' iterations="1"'))
    model, rng = BODY.model, np.random.default_rng(1)
    controls, none = rng.uniform(-1, 1, (24, model.nu)).repeat(BODY.substeps, axis=0), np.zeros((120, model.nv))
    states = stacked(c_steps(model, start_of(model, rng), substeps=1, controls=controls, applied=none))
    monkeypatch.setattr(physics, "ASSETS", tmp_path)
    before, after = (jax.tree.map(lambda x, i=i: x[i : i + BATCH], states) for i in (80, 81))
    step = stepper(Simulator("once", substeps=1, impl=impl), x64=True)
    for warmstart, near in ((after.warmstart, True), (0.0 * after.warmstart, False)):
        qvel = error(step(before.replace(warmstart=warmstart), controls[80:], none[:BATCH]), after)[1]
        assert (qvel < 1e-9) == near and (near or qvel > 1e-2)


NO_EULERDAMP = ('ls_iterations="4"/>', 'ls_iterations="4"><flag eulerdamp="disable"/></option>')


@pytest.mark.parametrize("old, new", [(' iterations="4"', ' iterations="1"'), NO_EULERDAMP])
def test_a_half_cheetah_that_is_solved_worse_does_not(impl, old, new, tmp_path, monkeypatch):
    text = (physics.ASSETS / "half_cheetah.xml").read_text()
    assert text.count(old) == 1
    (tmp_path / "worse.xml").write_text(text.replace(old, new))
    monkeypatch.setattr(physics, "ASSETS", tmp_path)
    physics.load.cache_clear()
    stepper.cache_clear()
    worse = Simulator("worse", substeps=5, impl=impl)
    assert open_loop(worse, gymnasiums("half_cheetah"), x64=False, steps=20, torque=0.3).max() > 1e-3
    physics.load.cache_clear()


def test_wind_on_rootx_is_a_horizontal_force_through_the_origin_of_the_torso():
    """At its centre of mass, 2 cm higher, where MuJoCo's xfrc_applied acts, it would also pitch the torso a little."""
    states, _, _ = cheetah_run(0.0, steps=4)
    model, data = BODY.model, mujoco.MjData(BODY.model)
    data.qpos[:] = states.qpos[-1]
    mujoco.mj_forward(model, data)
    torso, force = data.body("torso"), np.array([15.0, 0.0, 0.0])
    for point, pitch in ((torso.xpos, 0.0), (torso.xipos, 15.0 * (torso.xipos - torso.xpos)[2])):
        joints = np.zeros(model.nv)
        mujoco.mj_applyFT(model, data, force, np.zeros(3), point, torso.id, joints)
        np.testing.assert_allclose(joints, [15.0, 0.0, pitch, *[0.0] * 6], atol=1e-12)
    assert abs(pitch) < 0.5


def test_wind_pushes_the_half_cheetah_by_rootx(impl):
    states, controls, applied = cheetah_run(0.0)
    before = jax.tree.map(lambda x: x[:-1], states)
    applied[:, 0] = 15.0
    pushed = stepper(BODY.run_by(impl, None))(before, controls, applied)
    env = registry.make("halfcheetah_wind")
    still, wind = jnp.ones(BATCH), jnp.full(BATCH, 15.0)
    after, reward = at_once("halfcheetah_wind", impl, before, Task(1.5 * still, still, wind), controls)
    speed = (np.asarray(after.qpos)[:, 0] - np.asarray(before.qpos)[:, 0]) / 0.05
    np.testing.assert_allclose(reward, -np.abs(speed - 1.5) - 0.05 * (controls**2).sum(1), atol=1e-3)
    assert env.decode_state
    np.testing.assert_allclose(after.qvel, pushed.qvel, atol=1e-3)
    calm, _ = at_once("halfcheetah_wind", impl, before, Task(still, still, 0.0 * wind), controls)
    assert (after.qvel[:, 0] - calm.qvel[:, 0]).min() > 0.01


def test_ten_newtons_move_a_cheetah_that_does_nothing_by_a_third_of_a_metre_in_ten_seconds(impl):
    applied = np.zeros((BATCH, 9))
    none: Any = 0.0 * applied
    motion = Motion(none, none, none)
    applied[:, 0] = 10.0
    for _ in range(round(10 / BODY.dt)):
        motion = stepper(BODY.run_by(impl, None))(motion, np.zeros((BATCH, 6)), applied)
    assert motion.qpos[:, 0] == pytest.approx(0.32, abs=0.02)


# -- Warp ----------------------------------------------------------------------------------------------------------


def test_warp_has_room_for_every_contact_and_constraint():
    """Its own sizes, 48 contacts of all environments together and 64 constraints of each, would drop some."""
    for body, contacts, constraints in ((BODY, 16, 70), (ARM, 0, 1)):
        held = Warp(dataclasses.replace(body, impl="warp", worlds=100))._blank()._impl
        assert (held.naconmax, held.njmax) == (max(1, 100 * contacts), constraints)


def test_a_step_of_the_half_cheetah_in_warp_is_that_of_c_mujoco():
    states, controls, applied = cheetah_run(20.0)
    before, after = jax.tree.map(lambda x: x[:-1], states), jax.tree.map(lambda x: x[1:], states)
    result = stepper(dataclasses.replace(BODY, impl="warp", worlds=BATCH))(before, controls, applied)
    qpos, qvel = error(result, after)
    assert qpos <= 5e-5 and qvel <= 1e-3


def test_warp_steps_seeds_of_environments_as_it_steps_environments():
    """Training vmaps over seeds and, within them, over environments."""
    states, controls, applied = cheetah_run(20.0)
    inputs = jax.tree.map(lambda x: jnp.array(x[:BATCH], jnp.float32), (states, controls, applied))
    advance = dataclasses.replace(BODY, impl="warp", worlds=BATCH).advance
    flat = jax.jit(jax.vmap(advance))(*inputs)
    seeds = jax.tree.map(lambda x: x.reshape(4, BATCH // 4, *x.shape[1:]), inputs)
    nested = jax.jit(jax.vmap(jax.vmap(advance)))(*seeds)
    for x, y in zip(jax.tree.leaves(flat), jax.tree.leaves(nested), strict=True):
        np.testing.assert_allclose(x, y.reshape(x.shape), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("worlds", [None, 0, 2.5])
def test_warp_must_know_how_many_environments_step_at_once(worlds, monkeypatch):
    monkeypatch.setattr(physics, "check_implementation", lambda impl: None)
    with pytest.raises(UserError, match=f"worlds is {worlds}; it must be"):
        registry.make("halfcheetah_vel", impl="warp", worlds=worlds)


def test_the_reacher_in_warp_stays_with_c_mujoco_for_a_second():
    assert (
        open_loop(dataclasses.replace(ARM, impl="warp", worlds=BATCH), ARM.model, x64=False, steps=50, torque=0.1).max()
        <= 1e-5
    )


# -- reacher -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("x64, position, velocity", [(True, 1e-8, 1e-6), (False, 5e-5, 5e-3)])
def test_a_step_of_the_reacher_at_its_limit_is_that_of_gymnasiums_solver(impl, x64, position, velocity):
    """Full torque throws the elbow into its limit; the reference makes up to 100 iterations where ours makes 4."""
    reference = mujoco.MjModel.from_xml_path(str(physics.ASSETS / "reacher.xml"))
    theirs = gymnasiums("reacher").opt
    reference.opt.iterations, reference.opt.ls_iterations = theirs.iterations, theirs.ls_iterations
    rng = np.random.default_rng(0)
    controls = rng.uniform(-1, 1, (10, 2)).repeat(20, axis=0)
    start, none = start_of(reference, rng), np.zeros((200, 2))
    states = stacked(c_steps(reference, start, substeps=ARM.substeps, controls=controls, applied=none))
    chosen = np.argsort(-np.abs(states.qpos[:-1, 1]))[:BATCH]
    assert np.abs(states.qpos[chosen, 1]).max() > 3.0
    before, after = (jax.tree.map(lambda x, i=index: x[i], states) for index in (chosen, chosen + 1))
    qpos, qvel = error(stepper(ARM.run_by(impl, None), x64)(before, controls[chosen], np.zeros((BATCH, 2))), after)
    assert qpos <= position and qvel <= velocity


@pytest.mark.parametrize("x64, tolerance", [(False, 1e-5), (True, 1e-12)])
def test_the_reacher_stays_with_c_mujoco_for_a_second(impl, x64, tolerance):
    assert open_loop(ARM.run_by(impl, None), ARM.model, x64=x64, steps=50, torque=0.1).max() <= tolerance


# -- rewards and observations --------------------------------------------------------------------------------------


def in_gymnasium(name: str, steps: int, torque: float) -> list[tuple[Any, ...]]:
    """(state before, action, state after, reward terms, observation after) of random actions."""
    env: Any = gymnasium.make(name)
    env.reset(seed=0)
    data, records = env.unwrapped.data, []
    rng = np.random.default_rng(0)
    for _ in range(steps):
        before = Motion(data.qpos.copy(), data.qvel.copy(), data.qacc_warmstart.copy())
        action = rng.uniform(-torque, torque, env.action_space.shape)
        observation, _, _, _, terms = env.step(action)
        records.append((before, action, data.qpos.copy(), terms, observation))
    return records


@functools.cache
def dynamics(name: str, impl: str) -> Any:
    env = registry.make(name, impl=impl)
    return jax.jit(jax.vmap(lambda state, context, action: env.dynamics(state, context, action, jax.random.key(0))[:2]))


def at_once(name: str, impl: str, before: Motion, context: Any, actions: np.ndarray) -> tuple[Motion, np.ndarray]:
    """Our steps from the states of a run."""
    state = jax.tree.map(lambda x: jnp.array(x, jnp.float32), before)
    after, reward = dynamics(name, impl)(state, context, jnp.array(actions, jnp.float32))
    return after, np.asarray(reward)


def test_a_cheetah_is_paid_gymnasiums_terms(impl):
    run = in_gymnasium("HalfCheetah-v5", 64, 1.0)
    before, actions, _, terms, observations = (list(x) for x in zip(*run, strict=True))
    speed = np.array([term["x_velocity"] for term in terms])
    control = np.array([term["reward_ctrl"] for term in terms]) / 0.1 * 0.05  # its weight is 0.1, VariBAD's 0.05
    sides, targets = np.where(np.arange(64) % 2, -1.0, 1.0), np.linspace(0, 3, 64)
    for name, expected in (("halfcheetah_dir", sides * speed), ("halfcheetah_vel", -np.abs(speed - targets))):
        context = Task(*(jnp.array(x, jnp.float32) for x in (targets, sides, np.zeros(64))))
        after, reward = at_once(name, impl, stacked(before), context, np.stack(actions))
        np.testing.assert_allclose(reward, expected + control, atol=1e-3)
        observed = jax.vmap(registry.make(name).observe)(after)
        np.testing.assert_allclose(observed, np.stack(observations), atol=1e-3)


def test_the_position_of_the_torso_can_be_observed():
    env = registry.make("halfcheetah_vel", torso_position=True)
    assert isinstance(env, HalfCheetah)
    states, _, _ = cheetah_run(0.0, steps=4)
    data = mujoco.MjData(BODY.model)
    data.qpos[:] = states.qpos[-1]
    mujoco.mj_forward(BODY.model, data)
    last = jax.tree.map(lambda x: jnp.array(x[-1], jnp.float32), states)
    observed = np.asarray(env.observe(last))
    assert observed.shape == (env.observation_size,) == (20,)
    np.testing.assert_allclose(observed[17:], data.body("torso").xpos, atol=1e-6)


def test_a_reacher_is_paid_gymnasiums_terms(impl):
    run = in_gymnasium("Reacher-v5", 50, 0.3)
    before, actions, places, terms, expected_observation = (list(x) for x in zip(*run, strict=True))
    arms = [Motion(*(x[:2] for x in (state.qpos, state.qvel, state.warmstart))) for state in before]
    goals = np.stack([place[2:] for place in places])
    after, reward = at_once("reacher", impl, stacked(arms), jnp.array(goals, jnp.float32), np.stack(actions))
    expected = [term["reward_dist"] + term["reward_ctrl"] for term in terms]
    np.testing.assert_allclose(reward, expected, atol=1e-5)
    env = registry.make("reacher")
    assert isinstance(env, Reacher)
    observed, expected_observation = np.asarray(jax.vmap(env.observe)(after)), np.stack(expected_observation)
    np.testing.assert_allclose(observed[:, :4], expected_observation[:, :4], atol=1e-5)
    np.testing.assert_allclose(observed[:, 4:6], expected_observation[:, 6:8], atol=1e-4)
    np.testing.assert_allclose(observed[:, 6:] - goals, expected_observation[:, 8:10], atol=1e-5)


# -- implementations -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["reacher", "halfcheetah_wind"])
@pytest.mark.parametrize(
    "impl, reason", [("cuda", "it must be one of auto, jax, c, warp"), ("warp", "it needs ")], ids=["cuda", "warp"]
)
def test_an_implementation_that_can_not_run_here_is_refused(name, impl, reason, monkeypatch):
    monkeypatch.setattr("mujoco.mjx.warp.WARP_INSTALLED", False)
    with pytest.raises(UserError, match=f"impl is '{impl}'; {reason}"):
        registry.make(name, impl=impl)
