"""Learning from recorded episodes: what is learnt, from which steps, and that it goes on bit for bit."""

import dataclasses
import functools
import shutil
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dynamite_jax as dj
from conftest import assert_same
from dynamite_envs import registry
from dynamite_envs.errors import UserError
from dynamite_envs.wrappers import ObserveContext
from dynamite_jax import config as configs
from dynamite_jax import presets
from dynamite_jax.agents import running_statistics
from dynamite_jax.agents.agent import Agent
from dynamite_jax.algorithms import learners, offline
from dynamite_jax.config import ConfigError, NetworkConfig
from dynamite_jax.datasets.recording import Episodes
from dynamite_jax.methods import METHODS, of_setting
from dynamite_jax.runtime import training
from dynamite_jax.runtime.checkpoints import Checkpoints
from dynamite_jax.runtime.program import Program
from recorded import collected, offline_config, played, program_of
from settings import refusal

WIDE = NetworkConfig(policy_hidden=(64, 64), value_hidden=(64, 64), activation="relu")
LEARNERS = ("iql", "cql", "bc")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Random actions of the probe that pays for naming the context, and of the point robot."""
    folder = tmp_path_factory.mktemp("data")
    for env in ("probe_match", "probe_memory", "point_robot"):
        collected(folder / env, env, episodes=96, shard=16)
    collected(folder / "still", "point_robot", episodes=256, shard=64, options={"horizon": 12, "p": 0.0})
    return folder


def trained(config):
    program = program_of(config)
    states = program.init()
    step = program.compile(states)
    for _ in range(program.chunks):
        states, metrics = step(states)
    return program, states, metrics


@pytest.mark.parametrize("learner", LEARNERS)
def test_random_episodes_teach_the_best_action_to_all_but_a_clone(learner, data):
    own = {"learner": learner, "lr": 1e-2, "critic_lr": 1e-2, "minibatches": 10, "gamma": 0.0, "temperature": 10.0}
    config = offline_config(data / "probe_match", method="oracle", steps=8000, num_envs=16, offline=own)
    _, _, metrics = trained(config)
    horizon = registry.make("probe_match").horizon
    if learner == "bc":
        assert metrics[f"{learner}/policy_loss"] == pytest.approx(np.log(2), abs=0.05)
    else:
        np.testing.assert_allclose(metrics["return"], horizon, rtol=0.03)


def test_what_pays_in_the_last_step_alone_is_learnt(data):
    own = {"lr": 1e-2, "critic_lr": 1e-2, "minibatches": 10, "gamma": 0.0, "temperature": 10.0}
    own |= {"watched_episodes": 1024}  # whose cues, 1 or -1, are 0 on average, within 0.03
    config = offline_config(data / "probe_memory", "probe_memory", "oracle", steps=24_000, num_envs=16, offline=own)
    _, _, metrics = trained(config)
    np.testing.assert_allclose(metrics["return"], 1.0, atol=0.15)


@pytest.mark.parametrize("learner", ["iql", "td3bc", "cql", "bc"])
def test_continuous_actions_are_learnt_from_random_ones(learner, data):
    own = {"learner": learner, "lr": 3e-3, "critic_lr": 3e-3, "minibatches": 12, "gamma": 0.9}
    own |= {"bc_weight": 10.0, "temperature": 50.0, "cql_weight": 0.1}
    options = {"env_options": {"horizon": 12, "p": 0.0}}
    env = registry.make("point_robot", **options["env_options"])
    own["watched_episodes"] = 64
    sizes = {"steps": 36_000, "num_envs": 32, "chunk": 10, "network": WIDE}
    config = offline_config(data / "still", "point_robot", "oracle", offline=own, **sizes, **options)
    _, _, metrics = trained(config)
    returns = np.asarray(jax.device_get(played(env, 256).reward.sum(0)).mean())
    gained = metrics["return"] - returns
    if learner == "bc":
        assert (np.abs(gained) < 1.5).all()  # the mean of random actions goes nowhere
    else:
        assert (gained > 2.0).all(), (metrics["return"], returns)


@functools.cache
def updater(config) -> Any:
    """A program, the state of one seed before its first update, and the update."""
    program = program_of(config)
    return program, jax.tree.map(lambda x: x[0], program.init()), jax.jit(program.algorithm.update)


def one_update(config, episodes) -> Any:
    """A program, and the state of one seed before and after an update on given episodes, with its metrics."""
    program, state, update = updater(config)
    return program, state, *update(offline.Recorded(program.env, episodes), program.algorithm.hyper, state)


def test_labels_reach_only_methods_that_learn_from_them(data):
    env = registry.make("probe_match")
    episodes = played(env, 16)
    hidden = episodes.replace(
        session=jnp.zeros_like(episodes.session), context=jnp.zeros_like(episodes.context), physics=None
    )
    for method, sees in (("markov", False), ("varibad", False), ("dynamite", True)):
        config = offline_config(data / "probe_match", method=method)
        after = [one_update(config, each)[2] for each in (episodes.replace(physics=None), hidden)]
        same = all(
            np.array_equal(x, y)
            for x, y in zip(*map(jax.tree.leaves, (after[0].agent_params, after[1].agent_params)), strict=True)
        )
        assert same != sees, method


def test_the_oracle_and_no_other_method_observes_the_context():
    env = registry.make("point_robot", horizon=6)
    episodes = played(env, 3)
    assert offline.observed(env, episodes) is episodes
    shown = offline.observed(ObserveContext.of(env), episodes).observation
    assert shown.shape == (7, 3, ObserveContext.of(env).observation_size)
    np.testing.assert_array_equal(shown[..., :2], episodes.observation)
    goals = jax.vmap(jax.vmap(env.context_features))(episodes.context)
    np.testing.assert_array_equal(shown[..., 2:], goals)


def test_beliefs_of_recorded_episodes_are_those_that_act(data):
    """Features of s_0 .. s_H as an update has them, against an agent that takes in one step after the other."""
    config = offline_config(data / "point_robot", "point_robot")
    program = program_of(config)
    agent: Agent = program.agent
    episodes = played(program.env, 4)
    _, state, after, _ = one_update(config, episodes.replace(physics=None))
    params = after.agent_params
    features = agent.encode(params, offline._with_end(episodes.trajectories()))
    acting, reward, observe = agent.init((4,)), jnp.zeros(4), jax.jit(agent.observe)
    for t in range(program.env.horizon + 1):
        acting, insight = observe(params, acting, episodes.observation[t], reward)
        np.testing.assert_allclose(features[t], insight.features, rtol=2e-4, atol=2e-5)
        if t < program.env.horizon:
            acting = acting.replace(action=episodes.action[t], started=jnp.ones(4, bool))
            reward = episodes.reward[t]


def test_all_steps_count_but_those_behind_an_end(data):
    config = offline_config(data / "probe_match")
    program = program_of(config)
    state = jax.tree.map(lambda x: x[0], program.init())
    terminated = jnp.zeros((5, 3), bool).at[2:, 1].set(True).at[4, 2].set(True)
    shape = (5, 3)
    episodes = Episodes(
        observation=jnp.zeros((6, 3, 1)),
        action=jnp.zeros(shape, jnp.int32),
        reward=jnp.arange(15.0).reshape(shape),
        terminated=terminated,
        session=jnp.zeros((6, 3), jnp.int32),
        context=None,
        physics=None,
    )
    features = jnp.arange(6.0)[:, None, None] * jnp.ones((6, 3, state.normaliser.mean.features.value.shape[0]))
    algorithm: Any = program.algorithm
    steps = algorithm._transitions(features, episodes, state)
    np.testing.assert_array_equal(steps.weight, [[1, 1, 1], [1, 1, 1], [1, 1, 1], [1, 0, 1], [1, 0, 1]])
    np.testing.assert_array_equal(steps.following[:-1], steps.features[1:])
    assert (steps.following[-1] > steps.features[-1]).all()  # the belief in s_H
    np.testing.assert_array_equal(steps.terminated, terminated)


@pytest.mark.parametrize("ends", [False, True])
def test_a_step_that_ends_no_task_is_followed_by_more(ends, tmp_path):
    """Every step pays 1: forever, where the last one of an episode leads on; else twice."""
    collected(tmp_path, "probe_match", episodes=16, shard=16, options={"horizon": 2})
    own = {"gamma": 0.5, "lr": 0.03, "critic_lr": 0.03, "polyak": 0.2, "expectile": 0.5, "watched_episodes": 2}
    config = offline_config(tmp_path, method="markov", offline=own, env_options={"horizon": 2})
    program, state, update = updater(config)
    episodes = played(program.env, 16).replace(physics=None, reward=jnp.ones((2, 16)))
    episodes = episodes.replace(
        observation=jnp.zeros_like(episodes.observation), terminated=episodes.terminated.at[-1].set(ends)
    )
    for _ in range(300):
        state, metrics = update(offline.Recorded(program.env, episodes), program.algorithm.hyper, state)
    _, unit = running_statistics.moments(state.normaliser, "returns")
    # Observations tell no time, so that V is the mean of what the two steps lead to: 1 + V / 2, and 1 at an end.
    expected = 1 / (1 - 0.25) if ends else 1 / (1 - 0.5)
    assert float(metrics["iql/q"] * unit) == pytest.approx(expected, rel=0.2)


def test_returns_to_go_end_with_the_episode():
    reward = jnp.array([[1.0, 1.0], [2.0, 2.0], [4.0, 4.0]])
    terminated = jnp.array([[False, False], [False, True], [False, True]])
    np.testing.assert_allclose(offline._to_go(reward, terminated, 0.5), [[3.0, 2.0], [4.0, 2.0], [4.0, 4.0]])


def test_targets_come_from_critics_that_follow_slowly(data):
    config = offline_config(data / "probe_match", method="markov", offline={"polyak": 0.25, "minibatches": 1})
    episodes = played(registry.make("probe_match"), 16).replace(physics=None)
    _, before, after, _ = one_update(config, episodes)
    expected = jax.tree.map(lambda old, new: 0.75 * old + 0.25 * new, before.slow_critics, after.critic_params)
    for wanted, slow in zip(*map(jax.tree.leaves, (expected, after.slow_critics)), strict=True):
        np.testing.assert_allclose(slow, wanted, rtol=1e-5, atol=1e-7)


def test_training_goes_on_bit_for_bit_also_where_windows_change(data, tmp_path):
    config = offline_config(data / "probe_match", steps=1920, offline={"relabel": 0.5})
    program = program_of(config, most_bytes=1)  # one shard a window
    step = program.compile(states := program.init())
    half, _ = step(states)
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, half)
    whole, expected = step(half)
    checkpoints.wait()
    resumed = program_of(config, completed_chunks=1, most_bytes=1)
    _, restored, _ = checkpoints.restore(resumed.init())
    checkpoints.close()
    assert_same((whole, expected), resumed.compile(restored)(restored))


def test_chunks_get_other_windows_and_the_same_ones_after_a_while(data):
    config = offline_config(data / "probe_match", method="markov")
    worlds = program_of(config, most_bytes=1).worlds
    rewards = [next(worlds).episodes.reward for _ in range(12)]
    assert not np.array_equal(rewards[0], rewards[1])
    first, second = (sorted(float(x.sum()) for x in each) for each in (rewards[:6], rewards[6:]))
    assert first == second


def test_rewards_that_are_not_finite_stop_the_run_with_their_name(data):
    config = offline_config(data / "probe_match", method="markov")
    episodes = played(registry.make("probe_match"), 16).replace(physics=None)
    _, _, after, _ = one_update(config, episodes.replace(reward=episodes.reward.at[0].set(jnp.nan)))
    assert int(after.faults.count) == 1 and int(after.faults.quantity) == 1
    skipping = dataclasses.replace(config, not_finite="skip")
    _, before, after, metrics = one_update(skipping, episodes.replace(reward=episodes.reward.at[0].set(jnp.nan)))
    assert_same(before.agent_params, after.agent_params)
    assert float(metrics["left_out"]) == 1.0


def test_a_run_from_the_folder_to_its_policy(data, tmp_path):
    folder = shutil.copytree(data / "probe_match", tmp_path / "set")
    config = offline_config(folder, steps=960)
    run = dj.train(config, tmp_path / "run")
    assert run.summary and run.summary["env_steps"] >= 960 and run.config.offline.digest
    assert dj.load_run(tmp_path / "run").config.setting == "offline"
    shutil.rmtree(folder)  # evaluation needs no episodes
    assert dj.evaluate(run, episodes=16).returns.shape == (2,)
    run.policy(1).save(tmp_path / "policy")
    dj.load_policy(tmp_path / "policy").act(run.policy().init(), np.ones(1))
    (tmp_path / "run" / "summary.json").unlink()
    with pytest.raises(UserError, match="data is .*; it must be a folder with a card.json"):
        training.train(run.config, tmp_path / "run", resume=True)


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"data": ""}, "offline.data is ''; with setting 'offline' it must be a folder"),
        ({"learner": "td3bc"}, "offline.learner is 'td3bc'; with the discrete actions of probe_match it must be"),
        ({"minibatches": 7}, "offline.minibatches is 7; it must divide num_envs x horizon"),
        ({"polyak": 0.0}, "offline.polyak is 0.0; it must be above 0 and at most 1"),
        ({"relabel": 1.5}, "offline.relabel is 1.5; it must be between 0 and 1"),
        ({"critics": 0}, "offline.critics is 0; it must be 1 or more"),
    ],
)
def test_numbers_that_can_not_be_used_are_refused(changes, line):
    assert line in refusal(offline_config("data", offline=changes))


def test_methods_that_can_not_learn_in_a_setting_are_refused():
    assert "setting is 'offline'; with method rl2 it must be 'online'" in refusal(offline_config("data", method="rl2"))
    online = dataclasses.replace(offline_config("", method="borel"), setting="online")
    assert "setting is 'online'; with method borel it must be 'offline'" in refusal(online)
    where = offline_config("data", "halfcheetah_wind", steps=1600, offline={"relabel": 0.5, "minibatches": 1})
    assert "offline.relabel is 0.5; in halfcheetah_wind as it is, which can't tell rewards" in refusal(where)


def test_the_preset_of_a_setting_is_that_of_the_command_line_from_python_too():
    changes: dict[str, Any] = {"setting": "offline", "offline.data": "data"}
    config = dj.preset("gridworld", **changes)
    assert config == configs.changed(presets.default("gridworld", "dynamite", setting="offline"), changes)
    assert config.num_envs != dj.preset("gridworld").num_envs
    with pytest.raises(ConfigError, match="scale is 'accelerator'; with setting 'offline' it must be 'cores'"):
        presets.default("gridworld", "dynamite", "accelerator", "offline")


@pytest.mark.parametrize("env", registry.MAKERS)
def test_every_offline_preset_can_run(env):
    for method in of_setting("offline"):
        config = presets.default(env, method, setting="offline")
        configs.validate(configs.changed(config, {"offline.data": "data"}))


def test_a_belief_without_a_loss_of_its_own_can_not_learn_offline(data):
    config = offline_config(data / "probe_match")
    env = registry.make("probe_match")
    agent = Agent.build(config, env, METHODS["rl2"].build(config, env))
    with pytest.raises(
        UserError, match="setting is 'offline'; the belief of dynamite learns by the policy's loss alone"
    ):
        METHODS["dynamite"].learner(config, agent)


def test_devices_do_not_share_recorded_episodes(data):
    config = offline_config(data / "probe_match")
    with pytest.raises(UserError, match="share_envs is 2; with setting 'offline' it must be 1"):
        Program(config, registry.make("probe_match"), share_envs=2)


def test_of_sampled_actions_only_those_in_the_box_count(data):
    """The estimate of the log-sum-exp of q over the box, against the integral, where the policy lies mostly outside."""
    config = offline_config(data / "point_robot", "point_robot", "markov", network=WIDE)
    algorithm: Any = program_of(config).algorithm
    features, count = jnp.ones((1, 2)), 4000
    policy = algorithm.agent.network.init(jax.random.key(0), features)
    critics = algorithm.networks.critics.init(jax.random.key(1), features, jnp.zeros((1, 2)))
    many = jnp.tile(features, (count, 1))
    batch = learners.Transitions(many, many, jnp.zeros((count, 2)), *[jnp.zeros(count)] * 3)
    distribution, _ = algorithm.networks.policy(policy, many)
    weights = learners.Weights(policy, critics)
    others = learners._sampled(algorithm.networks, weights, batch, distribution, distribution, jax.random.key(2))
    estimated = jnp.exp(others).sum(1).mean(-1)
    grid = jnp.stack(jnp.meshgrid(*[jnp.linspace(-1, 1, 201)] * 2), -1).reshape(-1, 2)
    exact = 4 * jnp.exp(algorithm.networks.q(critics, jnp.tile(features, (len(grid), 1)), grid)).mean(-1)
    np.testing.assert_allclose(estimated, exact, rtol=0.03)


def test_borel_is_the_belief_of_varibad_offline():
    env = registry.make("probe_match")
    changes: dict[str, Any] = {"offline.data": "data", "offline.minibatches": 1}
    config = dj.preset("probe_match", "borel", **changes)
    assert config.setting == "offline"
    varibad = dj.preset("probe_match", "varibad")
    assert METHODS["borel"].build(config, env) == METHODS["varibad"].build(varibad, env)
    assert (config.vae.session_mask, config.vae.consistency, config.vae.boundary_head) == (False, False, False)


def test_critics_that_run_away_are_warned_of(data):
    algorithm = program_of(offline_config(data / "probe_match")).algorithm
    assert algorithm.warnings({"iql/q": [1.0, -2.0]}) == []
    (line,) = algorithm.warnings({"iql/q": [1.0, 300.0]})
    assert "critics of seed 1 have a mean of 300" in line


def test_critics_side_by_side_are_critics_alone(data):
    config = offline_config(data / "probe_match", offline={"critics": 3})
    algorithm: Any = program_of(config).algorithm
    networks = algorithm.networks
    features = jax.random.normal(jax.random.key(0), (5, 4))
    params = networks.critics.init(jax.random.key(1), features)
    q = networks.all_q(params, features)
    assert q.shape == (3, 5, 2) and not np.allclose(q[0], q[1])
    action = jnp.array([0, 1, 1, 0, 1])
    np.testing.assert_array_equal(networks.q(params, features, action), q[:, jnp.arange(5), action])
