"""One meta-update: its golden numbers, its metrics and statistics, and what must not change them."""

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct

from conftest import assert_same, build, compiled, tiny_config
from dynamite_envs.probes import Leaving
from dynamite_jax.agents import running_statistics
from dynamite_jax.algorithms import ppo
from dynamite_jax.beliefs.belief import Belief
from dynamite_jax.config import NetworkConfig
from dynamite_jax.data.rollout import play
from dynamite_jax.methods import METHODS, of_setting
from dynamite_jax.methods.method import Method
from dynamite_jax.runtime import training
from dynamite_jax.runtime.program import chunk
from rollouts import play_episode


@pytest.mark.parametrize(
    "env, method", [("gridworld", "dynamite"), ("point_robot", "dynamite"), ("gridworld", "varibad")]
)
def test_one_chunk_changes_all_that_learns_and_stays_finite(env, method):
    config = tiny_config(env, method)
    _, states = build(config)
    before = jax.device_get((states.belief_params, states.policy_params))
    states, values = compiled(config)(states)
    after = jax.device_get((states.belief_params, states.policy_params))
    unchanged = [
        jax.tree_util.keystr(path)
        for (path, x), y in zip(jax.tree_util.tree_leaves_with_path(before), jax.tree.leaves(after), strict=True)
        if np.array_equal(x, y)
    ]
    assert unchanged == []
    assert all(np.isfinite(v).all() and v.shape == (2,) for v in jax.device_get(values).values())
    assert not np.asarray(states.faults.count).any()
    assert np.asarray(states.meta_updates).tolist() == [2, 2]


def test_golden_meta_update():
    """Numbers of one meta-update from fixed streams; they move only when the algorithm does."""
    config = tiny_config("probe_match", chunk=1, vae={"lr": 3e-3}, ppo={"lr": 3e-3})
    _, values = compiled(config)(build(config)[1])
    result = {name: float(np.asarray(value)[0]) for name, value in values.items()}
    expected = {
        "return": 9.75,
        "sessions": 2.75,
        "vae/loss": 9.637702,
        "vae/reward_error": 8.9630852,
        "vae/kl": 0.0971308,
        "vae/consistency": 0.0047612,
        "vae/boundary": 0.6736413,
        "ppo/policy_loss": -0.0016016,
        "ppo/value_loss": 0.6524719,
        "ppo/entropy": 0.6930319,
        "ppo/approx_kl": 0.0001138,
        "ppo/clip_fraction": 0.0,
    }
    assert result.keys() == expected.keys()
    for name, value in expected.items():
        assert result[name] == pytest.approx(value, rel=2e-3, abs=2e-5), name


def test_no_label_reaches_the_agent(tiny):
    """Beliefs are the same whatever the labels are."""
    program, states = build(tiny)
    env, agent = program.env, program.agent
    state = jax.tree.map(lambda x: x[0], states)
    relabelled = state.environment.replace(
        session=state.environment.session + 7,
        switched=~state.environment.switched,
        context=1 - state.environment.context,
    )
    first = [
        agent.belief.update(
            state.belief_params, agent.belief.initial((8,)), e.obs, env.action_space.zeros((8,)), e.reward
        )
        for e in (state.environment, relabelled)
    ]
    assert_same(agent.features(state.environment.obs, first[0]), agent.features(relabelled.obs, first[1]))


def test_a_step_is_recorded_with_the_session_it_was_made_in():
    """At p = 1 every step has a session of its own, and the first step the first one."""
    program, states = build(tiny_config("probe_pomdp"))
    s = jax.tree.map(lambda x: x[0], states)
    rollout, environments, _ = play(program.agent, program.env, s.agent_params, environment=s.environment, key=s.key)
    steps = np.arange(program.env.horizon)[:, None]
    np.testing.assert_array_equal(np.asarray(rollout.session), np.broadcast_to(steps, rollout.session.shape))
    expected = np.asarray(rollout.action) == np.asarray(environments.context[:-1])
    np.testing.assert_array_equal(np.asarray(rollout.reward), expected)


@pytest.mark.parametrize("env", ["probe_match", "probe_termination"])
def test_metrics_and_running_statistics_are_those_of_all_valid_steps(env):
    config = tiny_config(env, chunk=1)
    program, states = build(config)
    state = jax.tree.map(lambda x: x[0], states)
    rollouts, returns = [], []
    for _ in range(2):
        play_key = jax.random.split(state.key, 5)[1]
        rollouts.append(play_episode(program, state, play_key))
        after, samples = program.algorithm.policy_samples(rollouts[-1], program.algorithm.hyper[1], state)
        mean, deviation = running_statistics.moments(after.normaliser, "returns")
        returns.append(mean + max(deviation, config.ppo.min_return_deviation) * samples.target)
        state, metrics = program.algorithm.update(program.env, program.algorithm.hyper, state)
        rollouts[-1] = program.algorithm.encoded_again(rollouts[-1], state)
        episode_returns = [rewards.sum() for rewards in np.asarray(rollouts[-1].reward).T]
        assert float(metrics["return"]) == pytest.approx(np.mean(episode_returns))
        sessions = [max(column) + 1 for column in np.where(rollouts[-1].valid, rollouts[-1].session, 0).T]
        assert float(metrics["sessions"]) == pytest.approx(np.mean(sessions))
    valid = np.concatenate([rollout.valid for rollout in rollouts])
    assert valid.all() == (env == "probe_match") and valid[0].all()
    kinds = {
        name: np.concatenate([getattr(rollout, name)[: len(rollout.reward)] for rollout in rollouts])
        for name in ("features", "observation", "reward")
    }
    for name, values in {**kinds, "returns": np.concatenate(returns)}.items():
        mean, deviation = running_statistics.moments(state.normaliser, name)
        np.testing.assert_allclose(mean, values[valid].mean(0), rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(deviation, values[valid].std(0), rtol=1e-3, atol=1e-6)


class LastStep(Belief):
    """Remembers the last observation and reward, and learns nothing: its features move with the statistics alone."""

    def initial(self, batch):
        return jnp.zeros((*batch, 3))

    def update(self, params, state, observation, action, reward):
        return jnp.concatenate([observation[..., :2], reward[..., None]], axis=-1)

    def features(self, state):
        return state


THROUGH_ENCODER = {"ppo": {"through_encoder": True, "shuffle": "episodes"}, "vae": {"average_rate": 1.0}}


@pytest.mark.parametrize(
    "method, changes",
    [(method, {}) for method in of_setting("online")]
    + [(method, THROUGH_ENCODER) for method in of_setting("online") if METHODS[method].through_encoder]
    + [
        ("dynamite", {"network": NetworkConfig(encoder="transformer", hidden=16, heads=2)}),
        ("dynamite", {"vae": {"buffer_episodes": 16}}),
        ("dynamite", {"env": "probe_termination", "env_options": {}}),
        ("last_step", {}),
    ],
)
def test_the_policy_learns_on_the_very_inputs_that_it_will_act_on(method, changes, monkeypatch):
    """Whatever moves before the next episode has moved: normalisation, the belief's own loss, the average that acts."""
    if method == "last_step":
        monkeypatch.setitem(METHODS._methods, "last_step", Method(belief=lambda config, env: LastStep()))
    horizon = 12 if method == "contrabar" else 5  # which looks ten steps ahead
    changes = {"env": "gridworld", "env_options": {"horizon": horizon}, **changes}
    changes["vae"] = {"lr": 0.01, "average_rate": 0.5, **changes.get("vae", {})}
    changes["ppo"] = {"lr": 0.0, "epochs": 1, "minibatches": 1, **changes.get("ppo", {})}
    config = tiny_config(changes.pop("env"), method, **changes)
    program, states = build(config)
    env, agent, state = program.env, program.agent, jax.tree.map(lambda x: x[0], states)

    def mark(features, valid):
        """A number that tells sets of inputs apart, whatever their order."""
        marks = jnp.sin(features @ jnp.cos(jnp.arange(features.shape[-1])))
        return jnp.where(valid, marks, 0.0).sum() / valid.sum()

    def loss(policy, value, batch, **_):
        return 0.0 * value.sum(), {"mark": mark(batch.features, batch.valid)}

    monkeypatch.setattr(ppo, "loss", loss)
    update = jax.jit(partial(program.algorithm.update, env, program.algorithm.hyper))

    @jax.jit
    def inputs(params, rollout):
        """Of the policy, had the agent with these parameters seen the episodes, marked."""
        acting, seen = agent.init((config.num_envs,)), []
        for t in range(env.horizon):
            acting, insight = agent.observe(params, acting, rollout.observation[t], rollout.reward[max(t - 1, 0)])
            acting = acting.replace(action=rollout.action[t], started=jnp.ones_like(acting.started))
            seen.append(agent.normalise(params.normaliser, "features", insight.features))
        return mark(jnp.stack(seen), rollout.valid)

    for _ in range(2):
        rollout = play_episode(program, state, jax.random.split(state.key, 5)[1])
        again = program.algorithm.encoded_again(rollout, state)
        assert not np.asarray(again.features)[1:][~np.asarray(again.valid)].any()
        before, (state, metrics) = state, update(state)
        learnt = float(metrics["ppo/mark"])
        assert learnt == pytest.approx(float(inputs(state.agent_params, rollout)), abs=1e-5)
        assert abs(learnt - float(inputs(before.agent_params, rollout))) > 1e-4


class Littered(Leaving):
    """After the end of an episode observations and rewards are `litter`, sessions leap, and contexts are others."""

    litter: Any = struct.field(kw_only=True, default=0.0)

    def step(self, state, action):
        after = super().step(state, action)
        over = state.terminated
        return after.replace(
            obs=jnp.where(over, self.litter, after.obs),
            reward=jnp.where(over, self.litter, after.reward),
            session=after.session + jnp.where(over & (self.litter != 0.0), 5, 0),
            context=jnp.where(over & (self.litter != 0.0), 1 - after.context, after.context),
        )


@pytest.mark.parametrize("method", ["dynamite", "secbad", "contrabar", "rl2", "task_inference"])
def test_what_lies_behind_the_end_of_an_episode_changes_no_number(method):
    """Metrics, parameters, statistics and buffer of two meta-updates; a NaN there is as good as a 0."""
    changes: dict[str, Any] = {"buffer_episodes": 12} if method in ("dynamite", "task_inference") else {}
    changes |= {"elbo_terms": 4} if method == "dynamite" else {}
    config = tiny_config("probe_termination", method, vae=changes)
    program, states = build(config)
    fields = {field.name: getattr(program.env, field.name) for field in dataclasses.fields(program.env)}
    update = jax.jit(lambda env, state: chunk(program.algorithm, config.chunk, env, program.algorithm.hyper, state))

    def two_updates(litter):
        state, metrics = update(Littered(**fields, litter=jnp.float32(litter)), jax.tree.map(lambda x: x[0], states))
        assert all(np.isfinite(value) for value in metrics.values())
        return metrics, state.replace(environment=None)

    clean = two_updates(0.0)
    for litter in (1e30, np.nan):
        assert_same(clean, two_updates(litter))


@pytest.mark.parametrize("method", ["dynamite", "rl2", "markov"])
def test_updates_are_counted_as_the_optimisers_count_them(method):
    config = tiny_config("probe_match", method, vae={"epochs": 2}, ppo={"epochs": 3})
    program, states = build(config)
    after, _ = compiled(config)(states)
    counts = program.algorithm.counts(program.env)

    def steps(state):
        """Steps of Adam by its own count."""
        leaves = jax.tree_util.tree_leaves_with_path(state)
        (count,) = {int(x[0]) for path, x in leaves if ".count" in jax.tree_util.keystr(path)}
        return count

    learns = program.agent.belief.learns
    encoder = after.belief_optimiser if learns else after.policy_optimiser if method == "rl2" else None
    updates = steps(encoder) if encoder is not None else 0
    assert updates == config.chunk * counts["encoder_updates"]
    assert steps(after.policy_optimiser) == config.chunk * counts["policy_updates"]
    epochs = 2 if learns else 3 if method == "rl2" else 0
    assert counts["encoder_steps"] == epochs * config.num_envs * program.env.horizon


def test_a_policy_that_has_become_noise_is_named():
    algorithm = build(tiny_config("point_robot"))[0].algorithm
    assert algorithm.warnings({"return": [1.0, 2.0]}) == []
    assert algorithm.warnings({"ppo/action_deviation": [0.3, 2.9]}) == []
    (line,) = algorithm.warnings({"ppo/action_deviation": [0.3, 4.0]})
    assert line.startswith("actions of seed 1 have a mean deviation of 4 ") and "ppo.entropy" in line


def test_training_warns_of_a_policy_that_is_noise(tmp_path, capsys):
    """Once at the first chunk in which it is noise, and at the end."""
    config = tiny_config("point_robot", "markov", steps=3 * 8 * 40 * 2, seeds=1, env_options={"horizon": 40})
    network = dataclasses.replace(config.network, action_deviation=5.0)
    training.train(dataclasses.replace(config, network=network), tmp_path / "run")
    output = " ".join(capsys.readouterr().err.split())
    assert output.count("warning: actions of seed 0 have a mean deviation of") == 2
