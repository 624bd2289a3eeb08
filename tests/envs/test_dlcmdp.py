"""The session process that every environment shares."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from dynamite_envs import registry
from dynamite_envs.brax import BraxDLCMDP
from dynamite_envs.dlcmdp import DLCMDP, Array, FiniteDLCMDP, State
from dynamite_envs.physics.backend import MuJoCoDLCMDP
from dynamite_envs.spaces import Box, Discrete

HORIZON = 40
# One half-cheetah and one ant: the others differ in their contexts, tested elsewhere, and each takes a minute here.
SIMILAR = ("ant_goal", "humanoid_dir")
NAMES = [name for name in sorted(registry.MAKERS) if "cheetah" not in name and name not in SIMILAR]
NAMES += ["halfcheetah_dir_wind"]
FINITE = [name for name in NAMES if isinstance(registry.make(name), FiniteDLCMDP)]
REWARD_ONLY = [name for name in NAMES if not registry.make(name).decode_state]


class Corridor(FiniteDLCMDP):
    """Counts its steps; the task ends at 3. The context is the reward."""

    @property
    def observation_size(self) -> int:
        return 1

    @property
    def action_space(self) -> Discrete:
        return Discrete(2)

    def init_physics(self, key: Array) -> Array:
        return jnp.zeros((), jnp.int32)

    def dynamics(self, physics: Array, context: Array, action: Array, key: Array) -> tuple[Array, Array, Array]:
        return physics + 1, 1.0 + context, physics + 1 == 3

    def observe(self, physics: Array) -> Array:
        return physics[None].astype(jnp.float32)


class Noise(Corridor):
    """Dynamics that draw a number."""

    def init_physics(self, key: Array) -> Array:
        return jax.random.uniform(key)

    def dynamics(self, physics: Array, context: Array, action: Array, key: Array) -> tuple[Array, Array, Array]:
        return jax.random.uniform(key), jnp.zeros(()), jnp.zeros((), bool)


def finite(name: str, **options: Any) -> FiniteDLCMDP:
    env = registry.make(name, horizon=HORIZON, **options)
    assert isinstance(env, FiniteDLCMDP)
    return env


def odds(name: str, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A first distribution and a kernel without any symmetry."""
    n = len(np.asarray(finite(name).initial))
    rng = np.random.default_rng(seed)
    return rng.dirichlet(np.full(n, 3.0)), rng.dirichlet(np.full(n, 3.0), n)


def has_physics(env: DLCMDP) -> bool:
    return isinstance(env, (MuJoCoDLCMDP, BraxDLCMDP))


def episodes(env: DLCMDP) -> int:
    """Fewer where each costs thousands of times as much."""
    return 32 if has_physics(env) else 512


def random_actions(env: DLCMDP, seed: int) -> Array:
    space, key, shape = env.action_space, jax.random.key(seed), (HORIZON, episodes(env))
    if isinstance(space, Discrete):
        return jax.random.randint(key, shape, 0, space.n)
    return jax.random.uniform(key, (*shape, space.size), minval=-1.5, maxval=1.5)


@jax.jit
def roll(env: DLCMDP, start: State, actions: Array) -> State:
    """States before the first and after every step, [H + 1, N]."""

    def step(state: State, action: Array) -> tuple[State, State]:
        following = jax.vmap(env.step)(state, action)
        return following, following

    rest = jax.lax.scan(step, start, actions)[1]
    return jax.tree.map(lambda a, b: jnp.concatenate([a[None], b]), start, rest)


@jax.jit
def begin(env: DLCMDP, key: Array) -> State:
    return jax.vmap(env.reset)(jax.random.split(key, episodes(env)))


def play(env: DLCMDP, seed: int = 0, policy: int = 0) -> State:
    return roll(env, begin(env, jax.random.key(seed)), random_actions(env, policy))


def goodness(observed: Any, probabilities: Any) -> float:
    """Chi-square p-value of counts; what has no probability must not have happened."""
    observed, probabilities = np.asarray(observed, float), np.asarray(probabilities, float)
    assert not observed[probabilities == 0].any()
    observed, probabilities = observed[probabilities > 0], probabilities[probabilities > 0]
    return stats.chisquare(observed, probabilities / probabilities.sum() * observed.sum()).pvalue


def independence(table: np.ndarray) -> float:
    """Chi-square p-value of a table of counts."""
    expected = table.sum(0) * table.sum(1, keepdims=True) / table.sum()
    return float(stats.chi2.sf(((table - expected) ** 2 / expected).sum(), (table.shape[0] - 1) * (table.shape[1] - 1)))


def numbers(tree: Any) -> list[np.ndarray]:
    """Leaves on the host; random keys as their data."""
    leaves = jax.tree.leaves(tree)
    keys = [jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) for leaf in leaves]
    return [np.asarray(jax.random.key_data(x) if key else x) for x, key in zip(leaves, keys, strict=True)]


def same(a: Any, b: Any) -> bool:
    return all(np.array_equal(x, y) for x, y in zip(numbers(a), numbers(b), strict=True))


@pytest.mark.parametrize("name", NAMES)
def test_a_reset_starts_session_zero_with_nothing_earned(name):
    states = play(registry.make(name, horizon=HORIZON))
    for field in ("reward", "session", "switched", "step", "terminated", "truncated"):
        assert not np.asarray(getattr(states, field))[0].any(), field


@pytest.mark.parametrize("p", [0.07, 0.5])
@pytest.mark.parametrize("name", NAMES)
def test_switches_are_independent_draws_with_probability_p(name, p):
    switched = np.asarray(play(registry.make(name, horizon=HORIZON, p=p)).switched)[1:]
    assert goodness([(~switched).sum(), switched.sum()], [1 - p, p]) > 1e-3
    pairs = np.bincount((2 * switched[:-1] + switched[1:]).ravel(), minlength=4)
    assert goodness(pairs, np.outer([1 - p, p], [1 - p, p]).ravel()) > 1e-3
    assert stats.chisquare(switched.sum(1)).pvalue > 1e-3  # the same at every step


@pytest.mark.parametrize("p", [0.5, 1.0])
@pytest.mark.parametrize("name", FINITE)
def test_contexts_after_a_switch_follow_the_row_of_the_kernel(name, p):
    initial, kernel = odds(name)
    states = play(finite(name, p=p, initial=initial, kernel=kernel))
    old, new = np.asarray(states.context)[:-1], np.asarray(states.context)[1:]
    switched = np.asarray(states.switched)[1:]
    for context, row in enumerate(kernel):
        counts = np.bincount(new[switched & (old == context)], minlength=len(row))
        assert goodness(counts, row) > 1e-3, context


@pytest.mark.parametrize("name", FINITE)
def test_whether_the_context_switches_does_not_depend_on_it(name):
    initial, kernel = odds(name)
    states = play(finite(name, p=0.4, initial=initial, kernel=kernel))
    context, switched = np.asarray(states.context)[:-1].ravel(), np.asarray(states.switched)[1:].ravel()
    table = np.stack([np.bincount(context[switched == d], minlength=len(kernel)) for d in (False, True)])
    assert independence(table) > 1e-3


@pytest.mark.parametrize("name", FINITE)
def test_contexts_without_probability_never_occur(name):
    n = len(np.asarray(finite(name).initial))
    cycle, last = np.roll(np.eye(n), 1, axis=1), np.eye(n)[-1]
    context = np.asarray(play(finite(name, p=1.0, initial=last, kernel=cycle)).context)
    assert np.all(context == (n - 1 + np.arange(HORIZON + 1)[:, None]) % n)


@pytest.mark.parametrize("name", NAMES)
def test_the_context_is_constant_within_a_session_and_sessions_count_the_switches(name):
    env = registry.make(name, horizon=HORIZON, p=0.2)
    states = play(env)
    switched = np.asarray(states.switched)[1:]
    for leaf in jax.tree.leaves(states.context):
        context = np.asarray(leaf).reshape(HORIZON + 1, episodes(env), -1)
        assert np.all(context[1:][~switched] == context[:-1][~switched])
    assert np.array_equal(np.asarray(states.session)[1:], np.cumsum(switched, axis=0))


@pytest.mark.parametrize("name", NAMES)
def test_steps_are_counted_and_truncation_comes_exactly_at_the_horizon(name):
    states = play(registry.make(name, horizon=HORIZON))
    assert np.all(np.asarray(states.step) == np.arange(HORIZON + 1)[:, None])
    assert np.all(np.asarray(states.truncated) == (np.arange(HORIZON + 1) == HORIZON)[:, None])


def test_a_context_match_is_paid_by_the_context_before_the_switch():
    states = play(finite("probe_pomdp"))
    context, reward = np.asarray(states.context), np.asarray(states.reward)[1:]
    action = np.asarray(random_actions(registry.make("probe_pomdp"), 0))
    assert np.array_equal(reward, action == context[:-1])
    assert np.array_equal(1 - reward, action == context[1:])


@pytest.mark.parametrize("name", FINITE)
def test_reward_is_that_of_the_context_before_the_switch(name):
    n = len(np.asarray(finite(name).initial))
    env = finite(name, p=1.0, kernel=np.roll(np.eye(n), 1, axis=1))
    states, actions = play(env), env.action_space.clip(random_actions(env, 0))
    before = jax.tree.map(lambda x: x[:-1], states)

    def reward(context: Array) -> np.ndarray:
        pay = jax.jit(jax.vmap(jax.vmap(lambda *x: env.dynamics(*x)[1])))
        return np.asarray(pay(before.physics, context, actions, before.key))

    expected = np.where(before.terminated, 0.0, reward(before.context))
    np.testing.assert_allclose(states.reward[1:], expected, atol=1e-6)
    assert not np.allclose(states.reward[1:], reward(states.context[1:]), atol=1e-3)


@pytest.mark.parametrize("name", NAMES)
def test_an_observation_is_a_function_of_the_physical_state(name):
    env = registry.make(name, horizon=HORIZON, p=0.2)
    states = play(env)
    assert states.obs.shape == (HORIZON + 1, episodes(env), env.observation_size)
    np.testing.assert_allclose(states.obs, jax.vmap(jax.vmap(env.observe))(states.physics), atol=1e-6)


@pytest.mark.parametrize("name", REWARD_ONLY)
def test_contexts_that_touch_only_the_reward_leave_physics_and_observations_alone(name):
    env = registry.make(name, horizon=HORIZON)
    still, moving = (play(registry.make(name, horizon=HORIZON, p=p)) for p in (0.0, 1.0))
    assert not same(still.context, moving.context)
    assert not same(still.reward, moving.reward)

    def moves(x):  # the rest of a physical state may be memory of the task
        return (x.qpos, x.qvel) if isinstance(env, MuJoCoDLCMDP) else x

    assert same(moves(still.physics), moves(moving.physics))
    assert same(still.obs, moving.obs)


@pytest.mark.parametrize("name", NAMES)
def test_the_same_contexts_replay_under_another_policy(name):
    env = registry.make(name, horizon=HORIZON, p=0.2)
    one, other = play(env, policy=1), play(env, policy=2)
    assert not same(one.reward, other.reward) or name == "probe_context_reward"
    assert same((one.context, one.session, one.switched), (other.context, other.session, other.switched))


@pytest.mark.parametrize("name", NAMES)
def test_the_same_contexts_replay_whatever_else_is_random(name):
    env = registry.make(name, horizon=HORIZON, p=0.2)
    start, actions = begin(env, jax.random.key(0)), random_actions(env, 0)
    other = start.replace(key=jax.random.split(jax.random.key(9), episodes(env)))
    assert same(roll(env, start, actions).context, roll(env, other, actions).context)


def test_other_randomness_does_not_depend_on_the_contexts():
    env = Noise(p=jnp.float32(0.5), horizon=HORIZON, initial=jnp.full(2, 0.5), kernel=jnp.full((2, 2), 0.5))
    start, actions = begin(env, jax.random.key(0)), random_actions(env, 0)
    other = start.replace(latent_key=jax.random.split(jax.random.key(9), episodes(env)))
    one, two = roll(env, start, actions), roll(env, other, actions)
    assert not same(one.context, two.context)
    assert same(one.physics, two.physics)
    assert len(np.unique(one.physics)) > 0.99 * one.physics.size  # a new draw at every step of every episode


@pytest.mark.parametrize("name", FINITE)
def test_a_new_episode_draws_a_new_context_from_the_first_distribution(name):
    initial, kernel = odds(name)
    env = finite(name, initial=initial, kernel=kernel)
    contexts = np.concatenate([np.asarray(begin(env, jax.random.key(k)).context) for k in range(8)])
    assert goodness(np.bincount(contexts, minlength=len(initial)), initial) > 1e-3


def test_the_first_context_is_independent_of_the_first_physical_state():
    env = Noise(p=jnp.float32(0.5), horizon=HORIZON, initial=jnp.full(2, 0.5), kernel=jnp.full((2, 2), 0.5))
    starts = [begin(env, jax.random.key(k)) for k in range(4)]
    context = np.concatenate([np.asarray(start.context) for start in starts])
    physics = np.concatenate([np.asarray(start.physics) for start in starts])
    table = np.stack([np.bincount(context[high], minlength=2) for high in (physics < 0.5, physics >= 0.5)])
    assert independence(table) > 1e-3


@pytest.mark.parametrize("name", NAMES)
def test_p_zero_never_switches(name):
    states = play(registry.make(name, horizon=HORIZON, p=0.0))
    assert not np.asarray(states.switched).any()
    assert not np.asarray(states.session).any()


@pytest.mark.parametrize("name", NAMES)
def test_p_one_redraws_at_every_step(name):
    states = play(registry.make(name, horizon=HORIZON, p=1.0))
    assert np.asarray(states.switched)[1:].all()
    assert np.all(np.asarray(states.session) == np.arange(HORIZON + 1)[:, None])


def test_a_switch_may_redraw_the_context_it_replaces():
    states = play(finite("probe_match", p=1.0, kernel=[[0.5, 0.5], [0.5, 0.5]]))
    unchanged = np.asarray(states.context)[1:] == np.asarray(states.context)[:-1]
    assert goodness([unchanged.sum(), (~unchanged).sum()], [0.5, 0.5]) > 1e-3


@pytest.mark.parametrize("jumps", [False, True])
def test_the_robot_returns_to_the_start_at_a_switch_only_if_asked_to(jumps):
    env = registry.make("point_robot", horizon=HORIZON, p=0.3, reset_on_switch=jumps)
    states, actions = play(env), np.asarray(random_actions(env, 0))
    position, switched = np.asarray(states.physics), np.asarray(states.switched)[1:]
    moved = position[:-1] + 0.1 * np.clip(actions, -1, 1)
    goal = np.pi * np.asarray(states.context)[:-1] / 7
    distance = np.linalg.norm(moved - np.stack([np.cos(goal), np.sin(goal)], -1), axis=-1)
    np.testing.assert_allclose(position[1:], np.where(jumps & switched[..., None], 0.0, moved), atol=1e-6)
    np.testing.assert_allclose(states.obs, states.physics)
    np.testing.assert_allclose(states.reward[1:], -distance, atol=1e-5)  # of the step, not of the jump


def test_a_switch_draws_the_physical_state_anew_if_asked_to():
    states = play(finite("gridworld", p=0.3, reset_on_switch=True))
    goals, switched = np.asarray(states.physics.goals), np.asarray(states.switched)[1:]
    changed = (goals[1:] != goals[:-1]).any((2, 3))
    assert not changed[~switched].any()
    assert abs(changed[switched].mean() - (1 - 1 / 600)) < 0.005  # 600 ordered pairs
    x, y = np.asarray(states.physics.agent)[1:][switched].T
    assert stats.chisquare(np.bincount(5 * x + y, minlength=25)).pvalue > 1e-3


def test_the_end_of_the_task_is_absorbing_and_pays_nothing_more():
    env = Corridor(p=jnp.float32(0.5), horizon=HORIZON, initial=jnp.full(2, 0.5), kernel=jnp.eye(2)[::-1])
    states = play(env)
    step = np.arange(HORIZON + 1)[:, None]
    context = np.asarray(states.context)
    assert np.all(np.asarray(states.terminated) == (step >= 3))
    assert np.all(np.asarray(states.physics) == np.minimum(step, 3))
    assert np.all(np.asarray(states.obs)[..., 0] == np.minimum(step, 3))
    assert np.array_equal(np.asarray(states.reward)[1:4], 1.0 + context[:3])  # the last step is paid
    assert not np.asarray(states.reward)[4:].any()
    assert np.all(np.asarray(states.truncated) == (step == HORIZON))


def test_the_session_process_goes_on_after_the_end_of_the_task():
    options = {"p": jnp.float32(0.5), "horizon": HORIZON, "initial": jnp.full(2, 0.5), "kernel": jnp.full((2, 2), 0.5)}
    ended, endless = play(Corridor(**options)), play(Noise(**options))
    assert same((ended.context, ended.session, ended.switched), (endless.context, endless.session, endless.switched))


@pytest.mark.parametrize("name", NAMES)
def test_single_jitted_and_vmapped_scanned_environments_agree(name):
    env = registry.make(name, horizon=HORIZON, p=0.3)
    states, actions = play(env), random_actions(env, 0)
    plain = jitted = env.reset(jax.random.split(jax.random.key(0), episodes(env))[7])
    step = jax.jit(env.step)
    # Physics multiplies rounding, and without jit it compiles at every step.
    rtol, atol = (1e-3, 1e-4) if has_physics(env) else (1e-5, 1e-6)
    eager = 0 if has_physics(env) else 2
    for t in range(6):
        for state in (plain, jitted):
            for one, many in zip(numbers(state), numbers(jax.tree.map(lambda x, t=t: x[t, 7], states)), strict=True):
                if one.dtype == np.float32:
                    np.testing.assert_allclose(one, many, rtol=rtol, atol=atol)
                else:
                    assert np.array_equal(one, many)
        jitted = step(jitted, actions[t, 7])
        plain = env.step(plain, actions[t, 7]) if t < eager else jitted


@pytest.mark.parametrize("name", FINITE)
def test_numbers_of_an_environment_change_without_recompiling(name):
    traces = []

    @jax.jit
    def run(env: DLCMDP, key: Array) -> State:
        traces.append(name)
        return env.step(env.reset(key), env.action_space.zeros(()))

    initial, kernel = odds(name)
    changes = [{}, {"p": 0.5}, {"p": 1}, {"initial": initial, "kernel": kernel}]
    if name.startswith("gridworld"):
        changes += [{"active_reward": 2}, {"inactive_reward": -0.1}, {"step_reward": 0.0}]
        changes += [{"swap": 0.3} if name == "gridworld" else {"forward": 0.3}]
    if name == "point_robot":
        changes += [{"iid": True}, {"advance": 0.5}]
    for change in changes:
        run(finite(name, **change), jax.random.key(0))
    assert traces == [name]


def test_discrete_actions_are_one_hot_for_a_network():
    space = Discrete(3)
    assert space.size == 3
    assert np.array_equal(space.encode(jnp.array([2, 0])), [[0, 0, 1], [1, 0, 0]])
    assert space.clip(jnp.array(2)) == 2
    assert space.zeros((4, 2)).shape == (4, 2)
    assert jnp.issubdtype(space.zeros((4,)).dtype, jnp.integer)


def test_continuous_actions_are_clipped_to_the_unit_box():
    space = Box(2)
    for executed in (space.clip, space.encode):
        np.testing.assert_allclose(executed(jnp.array([[-3.0, 0.5], [1.5, -0.25]])), [[-1, 0.5], [1, -0.25]])
    assert space.zeros((4,)).shape == (4, 2)
    assert space.zeros(()).dtype == jnp.float32
