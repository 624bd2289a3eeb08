"""The person, the itch, scratches, and how ScratchItch pays; its arm is tested in test_scratch_itch_arm.py."""

from typing import Any

import jax
import jax.numpy as jnp
import mujoco as untyped
import numpy as np
import pytest
from scipy import stats

from dynamite_envs import exact
from dynamite_envs.dlcmdp import State
from dynamite_envs.errors import UserError
from dynamite_envs.physics.backend import Contact
from dynamite_envs.scratch_itch import env as scratch_itch
from dynamite_envs.scratch_itch import poses
from dynamite_envs.scratch_itch.env import Itch, ScratchItch, itch_frame, scratch
from scratching import EPISODES, KEYS, arm, make, played

mujoco: Any = untyped

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


def test_itches_move_nothing_and_are_not_observed():
    """The same actions under other itches: other scratches and rewards, the same motion and observations."""
    before, action, after = played("scripted")
    start = jax.tree.map(lambda x: x[0], before)
    other = start.replace(
        latent_key=jax.random.split(jax.random.key(7), EPISODES), context=jax.tree.map(lambda x: x[::-1], start.context)
    )
    moved_itch = replay(make(), other, action)
    for name in ("qpos", "qvel", "force", "tip"):
        np.testing.assert_array_equal(getattr(moved_itch.physics, name), getattr(after.physics, name), err_msg=name)
    np.testing.assert_array_equal(moved_itch.obs, after.obs)
    assert moved_itch.physics.scratches[-1].sum() < 0.5 * after.physics.scratches[-1].sum()


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


def touch(place: Any, force: float = 3.0, active: bool = True) -> Contact:
    """Of the forearm; the upper arm is not touched."""
    return Contact(
        jnp.array([False, active]), jnp.array([0.0, force]), jnp.stack([jnp.zeros(3), jnp.array(place, jnp.float32)])
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
    assert not bool(scratch(touch(ITCH, active=False), ITCH, LAST)[1])
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
            data.ctrl[:] = target
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
    charged = 0
    for t in range(40, 200, 20):
        deep, actions = jax.tree.map(lambda x, t=t: x[t], (before, action))
        deep = deep.replace(physics=deep.physics.replace(qvel=deep.physics.qvel + towards_itch(env, deep)))
        with_cost, without = again_under(env, deep, actions), again_under(free, deep, actions)
        costs, force = np.asarray(without.reward - with_cost.reward), np.asarray(with_cost.physics.force)
        hard = costs > 1e-6  # all of the force is on the itch, unless both limbs are touched
        assert np.all((costs[hard] >= 0.5) & (costs[hard] <= 0.05 * force[hard] * 1.001))
        charged += np.sum(np.isclose(costs[hard], 0.05 * force[hard], rtol=1e-3))
    assert charged >= 10


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
    starts = np.loadtxt(poses.FILE, delimiter=",").mean(0)
    assert np.abs(np.diff(after.obs[..., 7:14], axis=0)).max() < 0.5  # rad in a step: no angle jumps at a cut
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
        np.testing.assert_allclose(obs[7:14], physics.qpos - starts, atol=1e-5)
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
    assert not env.reset_on_switch and not env.decode_state and exact.find(env).references() == {}


@pytest.mark.parametrize(
    "option, value",
    [("female", 1.5), ("other", -0.1), ("iid", 1), ("action_cost", -1.0), ("reset_on_switch", True), ("impl", "warp")],
)
def test_an_option_that_can_not_be_is_refused(option, value):
    with pytest.raises(UserError, match=option):
        make(**{option: value})


def test_an_option_that_would_change_nothing_is_refused():
    with pytest.raises(UserError, match="other is 0.5; where iid is True it would change nothing"):
        make(iid=True, other=0.5)
