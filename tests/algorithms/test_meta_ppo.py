"""The compiled chunk: one golden update, one compilation, no host, no meeting of seeds, nothing that is not finite."""

import dataclasses
import re
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct

from conftest import assert_same, build, compiled, tiny_config
from dynamite_envs.probes import ContextBandit, Leaving
from dynamite_jax.agents import running_statistics
from dynamite_jax.algorithms import ppo
from dynamite_jax.data.rollout import play
from dynamite_jax.methods import METHODS
from dynamite_jax.runtime import training
from dynamite_jax.runtime.program import chunk
from episodes import statistics


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
    assert np.asarray(states.finite).all()
    assert np.asarray(states.meta_updates).tolist() == [2, 2]


def test_golden_meta_update():
    """Numbers of one meta-update from fixed streams; they move only when the algorithm does."""
    config = tiny_config("probe_match", chunk=1, vae={"lr": 3e-3}, ppo={"lr": 3e-3})
    _, values = compiled(config)(build(config)[1])
    found = {name: float(np.asarray(value)[0]) for name, value in values.items()}
    expected = {
        "return": 9.75,
        "sessions": 2.75,
        "vae/loss": 9.4231262,
        "vae/reward_error": 8.7609148,
        "vae/kl": 0.1871929,
        "vae/consistency": 0.002696,
        "vae/boundary": 0.6603373,
        "ppo/policy_loss": -0.0032796,
        "ppo/value_loss": 6.5381174,
        "ppo/entropy": 0.6926144,
        "ppo/approx_kl": 0.0004559,
        "ppo/clip_fraction": 0.0,
    }
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, rel=2e-3, abs=2e-5), name


def test_the_chunk_compiles_once_and_new_numbers_do_not_recompile(tiny):
    program, states = build(tiny)
    traces = []

    def count(env, hyper, states):
        traces.append(1)
        return jax.vmap(partial(chunk, program.algorithm, tiny.chunk), in_axes=(None, None, 0))(env, hyper, states)

    run = jax.jit(count)
    for _ in range(2):
        states, _ = run(program.env, program.algorithm.hyper, states)
    vae, ppo = program.algorithm.hyper
    faster = (vae.replace(kl_weight=jnp.float32(0.5)), ppo.replace(lr=jnp.float32(1e-2)))
    rarer = program.env.replace(p=jnp.float32(0.02), kernel=jnp.full((2, 2), 0.5, jnp.float32))
    run(rarer, faster, states)
    assert len(traces) == 1


def test_two_chunks_equal_one_chunk_of_twice_the_length(tiny):
    step = compiled(tiny)
    halves, _ = step(step(build(tiny)[1])[0])
    double = dataclasses.replace(tiny, chunk=4)
    assert_same(halves, compiled(double)(build(double)[1])[0])


def test_the_compiled_chunk_has_no_collective_and_no_host_callback(tiny):
    text = compiled(tiny).func.as_text()
    assert not re.search(r"all-reduce|all-gather|all-to-all|collective-permute|callback", text)


def test_vmapped_seeds_agree_with_solo_runs(tiny):
    program, states = build(tiny)
    first = [jax.device_get(jax.tree.map(lambda x, i=i: x[i : i + 1], states)) for i in range(2)]
    both, _ = compiled(tiny)(states)
    alone_config = dataclasses.replace(tiny, seeds=1)
    for seed in range(2):
        like = build(alone_config)[1]
        one = jax.tree.map(lambda x, y: jax.device_put(x, y.sharding), first[seed], like)
        alone, _ = compiled(alone_config)(one)
        for x, y in zip(jax.tree.leaves(both.policy_params), jax.tree.leaves(alone.policy_params), strict=True):
            np.testing.assert_allclose(np.asarray(x)[seed], np.asarray(y)[0], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_no_array_of_the_state_is_empty(method):
    """An array of size 0 comes back with another sharding, which the compiled chunk then refuses."""
    _, states = build(tiny_config("gridworld", method))
    assert all(leaf.size for leaf in jax.tree.leaves(states))


def test_seeds_differ_and_the_root_seed_changes_all(tiny):
    keys = [np.asarray(jax.random.key_data(build(dataclasses.replace(tiny, seed=s))[1].key)) for s in (0, 1)]
    assert len({tuple(row) for key in keys for row in key}) == 4


def test_a_loss_that_is_not_finite_is_remembered(tiny):
    program, states = build(tiny)
    vae, ppo = jax.tree.map(lambda x: jnp.full(tiny.seeds, x), program.algorithm.hyper)
    states, values = program.compile(states, (vae.replace(lr=jnp.full(tiny.seeds, np.inf)), ppo))(states)
    assert not np.asarray(states.finite).any()


def test_no_label_reaches_the_agent(tiny):
    """Beliefs, actions and values are the same whatever the labels say."""
    program, states = build(tiny)
    env, agent = program.env, program.agent
    state = jax.tree.map(lambda x: x[0], states)
    lied = state.environment.replace(
        session=state.environment.session + 7,
        switched=~state.environment.switched,
        context=1 - state.environment.context,
    )
    first = [
        agent.belief.update(
            state.belief_params, agent.belief.initial((8,)), e.obs, env.action_space.zeros((8,)), e.reward
        )
        for e in (state.environment, lied)
    ]
    assert_same(agent.features(state.environment.obs, first[0]), agent.features(lied.obs, first[1]))


def test_a_step_is_recorded_with_the_session_it_was_made_in():
    """At p = 1 every step has a session of its own, and the first step the first one."""
    program, states = build(tiny_config("probe_pomdp"))
    s = jax.tree.map(lambda x: x[0], states)
    rollout, environments, _ = play(program.agent, program.env, s.agent_params, s.environment, s.key)
    steps = np.arange(program.env.horizon)[:, None]
    np.testing.assert_array_equal(np.asarray(rollout.session), np.broadcast_to(steps, rollout.session.shape))
    paid = np.asarray(rollout.action) == np.asarray(environments.context[:-1])
    np.testing.assert_array_equal(np.asarray(rollout.reward), paid)


def test_the_buffer_keeps_the_newest_episodes_first():
    config = tiny_config("probe_match", vae={"buffer_episodes": 12})
    program, states = build(config)
    state = jax.tree.map(lambda x: x[0], states)
    rollouts = []
    for _ in range(2):
        rollout, _, _ = play(
            program.agent,
            program.env,
            state.agent_params,
            state.environment,
            jax.random.key(len(rollouts)),
        )
        state, _ = program.algorithm.update_belief(
            program.env, rollout, program.algorithm.hyper[0], state, jax.random.key(3)
        )
        state = state.replace(meta_updates=state.meta_updates + 1)
        rollouts.append(rollout)
    expected = np.concatenate([rollouts[1].reward, rollouts[0].reward], axis=1)[:, :12]
    assert state.buffer is not None
    np.testing.assert_array_equal(np.asarray(state.buffer.reward), expected)


def seen_with_statistics(method="dynamite", **ppo):
    """Program, its first agent under statistics that matter, and an episode of it."""
    config = tiny_config("probe_match", method, ppo=ppo)
    program, states = build(config)
    state = jax.tree.map(lambda x: x[0], states)
    state = state.replace(
        normaliser=statistics(state.normaliser.mean.features.value.size, program.env.observation_size)
    )
    rollout, _, _ = play(program.agent, program.env, state.agent_params, state.environment, jax.random.key(1))
    return config, program, state, rollout


def moments(state) -> tuple[running_statistics.Quantities, running_statistics.Quantities]:
    """Means and deviations of all quantities."""
    each = [running_statistics.moments(state.normaliser, name) for name in running_statistics.Quantities._fields]
    mean, deviation = (running_statistics.Quantities(*x) for x in zip(*each, strict=True))
    return mean, deviation


def test_the_belief_learns_from_deviations():
    """What it learns from an episode in units is what it learns from the same in deviations."""
    config, program, state, rollout = seen_with_statistics()
    mean, deviation = moments(state)
    in_deviations = rollout.replace(
        observation=jnp.clip((rollout.observation - mean.observation) / deviation.observation, -5, 5),
        reward=jnp.clip((rollout.reward - mean.reward) / deviation.reward, -5, 5),
    )
    trivial = state.replace(normaliser=jax.tree.map(lambda x: x[0], build(config)[1]).normaliser)
    update = partial(program.algorithm.update_belief, program.env)
    found, losses = update(rollout, program.algorithm.hyper[0], state, jax.random.key(2))
    expected, expected_losses = update(in_deviations, program.algorithm.hyper[0], trivial, jax.random.key(2))
    assert_same(found.belief_params, expected.belief_params)
    assert_same(losses, expected_losses)


def test_rewards_are_expected_in_units():
    config, program, state, rollout = seen_with_statistics()
    agent, acting, key = program.agent, state.agent_params, jax.random.key(3)
    shown = jax.tree.map(lambda x: x[0], agent.belief.summary(agent.belief.initial((config.num_envs,))))
    mean, deviation = moments(state)
    steps = (rollout.observation[0], rollout.action[0], rollout.observation[1])
    scaled = [(x - mean.observation) / deviation.observation if x.ndim == 2 else x for x in steps]
    inner = agent.belief.decode_reward(acting.belief_params, shown, key, *scaled)
    found = agent.expected_reward(acting, shown, key, *steps)
    np.testing.assert_allclose(found, inner * deviation.reward + mean.reward, rtol=1e-5)


@pytest.mark.parametrize("in_deviations", [True, False])
def test_the_critic_learns_returns_in_its_unit(in_deviations):
    """Advantages and returns are in units of reward whatever the critic's unit is; its targets are in that."""
    _, program, state, rollout = seen_with_statistics(normalise_returns=in_deviations)
    mean, deviation = (x.returns for x in moments(state)) if in_deviations else (0.0, 1.0)
    value = np.asarray(rollout.value) * deviation + mean
    hyper = program.algorithm.hyper[1]
    advantage = ppo.advantages(rollout.reward, rollout.terminated, jnp.asarray(value), hyper.gamma, hyper.gae_lambda)
    samples, returns = program.algorithm.policy_samples(rollout, hyper, state)
    np.testing.assert_allclose(samples.advantage, advantage, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(returns, value[:-1] + advantage, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(samples.target * deviation + mean, returns, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(samples.value, rollout.value[:-1])


def test_rewards_in_another_currency_train_the_same_critic():
    """Once returns are known, a hundredfold reward changes no target in deviations."""
    _, program, state, rollout = seen_with_statistics()
    rich = (x._replace(returns=100.0 * x.returns) for x in moments(state))
    rich = state.replace(normaliser=running_statistics.with_moments(*rich))
    targets = [
        program.algorithm.policy_samples(rollout.replace(reward=scale * rollout.reward), program.algorithm.hyper[1], s)[
            0
        ]
        for scale, s in ((1.0, state), (100.0, rich))
    ]
    np.testing.assert_allclose(targets[0].target, targets[1].target, rtol=1e-4, atol=1e-5)
    assert np.abs(targets[1].advantage).max() > 50 * np.abs(targets[0].advantage).max()


@pytest.mark.parametrize("env", ["probe_match", "probe_termination"])
def test_metrics_and_running_statistics_are_those_of_all_valid_steps(env):
    config = tiny_config(env, chunk=1)
    program, states = build(config)
    state = jax.tree.map(lambda x: x[0], states)
    seen, returns = [], []
    for _ in range(2):
        play_key = jax.random.split(state.key, 5)[1]
        seen.append(play(program.agent, program.env, state.agent_params, state.environment, play_key)[0])
        returns.append(program.algorithm.policy_samples(seen[-1], program.algorithm.hyper[1], state)[1])
        state, metrics = program.algorithm.update(program.env, program.algorithm.hyper, state)
        paid = [rollout_reward.sum() for rollout_reward in np.asarray(seen[-1].reward).T]
        assert float(metrics["return"]) == pytest.approx(np.mean(paid))
        sessions = [max(column) + 1 for column in np.where(seen[-1].valid, seen[-1].session, 0).T]
        assert float(metrics["sessions"]) == pytest.approx(np.mean(sessions))
    valid = np.concatenate([rollout.valid for rollout in seen])
    assert valid.all() == (env == "probe_match") and valid[0].all()
    kinds = {
        name: np.concatenate([getattr(rollout, name)[: len(rollout.reward)] for rollout in seen])
        for name in ("features", "observation", "reward")
    }
    for name, values in {**kinds, "returns": np.concatenate(returns)}.items():
        mean, deviation = running_statistics.moments(state.normaliser, name)
        np.testing.assert_allclose(mean, values[valid].mean(0), rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(deviation, values[valid].std(0), rtol=1e-3, atol=1e-6)


class Littered(Leaving):
    """Behind the end of an episode it shows and pays `litter`, and sessions go on in leaps."""

    litter: Any = struct.field(kw_only=True, default=0.0)

    def step(self, state, action):
        after = super().step(state, action)
        over = state.terminated
        return after.replace(
            obs=jnp.where(over, self.litter, after.obs),
            reward=jnp.where(over, self.litter, after.reward),
            session=after.session + jnp.where(over & (self.litter != 0.0), 5, 0),
        )


@pytest.mark.parametrize("method", ["dynamite", "secbad", "contrabar", "rl2"])
def test_what_lies_behind_the_end_of_an_episode_changes_no_number(method):
    """Metrics, parameters, statistics and buffer of two meta-updates; a NaN there is as good as a 0."""
    changes: dict[str, Any] = {"buffer_episodes": 12, "elbo_terms": 4} if method == "dynamite" else {}
    config = tiny_config("probe_termination", method, vae=changes)
    program, states = build(config)
    kept = {field.name: getattr(program.env, field.name) for field in dataclasses.fields(program.env)}
    update = jax.jit(lambda env, state: chunk(program.algorithm, config.chunk, env, program.algorithm.hyper, state))

    def found(litter):
        state, metrics = update(Littered(**kept, litter=jnp.float32(litter)), jax.tree.map(lambda x: x[0], states))
        assert all(np.isfinite(value) for value in metrics.values())
        return metrics, state.replace(environment=None)

    clean = found(0.0)
    for litter in (1e30, np.nan):
        assert_same(clean, found(litter))


def test_the_buffer_is_drawn_from_alike_however_many_episodes_there_were():
    """At 2^28 meta-updates of 8 episodes a count of them would no longer fit into 32 bits."""
    config = tiny_config("probe_match", vae={"buffer_episodes": 12}, steps=10**11)
    program, states = build(config)
    state = jax.tree.map(lambda x: x[0], states)
    rollout, _, _ = play(program.agent, program.env, state.agent_params, state.environment, jax.random.key(0))
    update = jax.jit(partial(program.algorithm.update_belief, program.env))
    full = update(rollout, program.algorithm.hyper[0], state, jax.random.key(1))[0]
    after = [
        update(rollout, program.algorithm.hyper[0], full.replace(meta_updates=jnp.int32(done)), jax.random.key(2))
        for done in (1, 2**28 + 5)
    ]
    assert_same(after[0][0].belief_params, after[1][0].belief_params)
    assert_same(after[0][1], after[1][1])


def test_a_buffer_that_is_not_full_gives_only_what_it_holds():
    """Eight episodes in room for twelve: not one of the 64 drawn is of the others, which have no valid step."""
    config = tiny_config("probe_match", vae={"buffer_episodes": 12, "trajectories": 64})
    program, states = build(config)
    state = jax.tree.map(lambda x: x[0], states)
    rollout, _, _ = play(program.agent, program.env, state.agent_params, state.environment, jax.random.key(0))
    original = type(program.agent.belief).loss

    def loss(self, params, data, key, hyper):
        value, terms = original(self, params, data, key, hyper)
        return value, {**terms, "drawn": data.valid[0].mean()}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(program.agent.belief), "loss", loss)
        losses = program.algorithm.update_belief(
            program.env, rollout, program.algorithm.hyper[0], state, jax.random.key(1)
        )[1]
    assert float(losses["drawn"]) == 1.0


@pytest.mark.parametrize("method", METHODS)
def test_no_number_of_a_fresh_state_is_weakly_typed(method):
    """A restored state never is, so that the chunk would be compiled again for it."""
    _, states = build(tiny_config("gridworld", method))
    weak = [jax.tree_util.keystr(p) for p, x in jax.tree_util.tree_leaves_with_path(states) if x.aval.weak_type]
    assert weak == []


class Late(ContextBandit):
    """A bandit whose payment is a number that can be changed."""

    pays: Any = struct.field(kw_only=True, default=0.0)

    def dynamics(self, physics, context, action, key):
        physics, reward, over = super().dynamics(physics, context, action, key)
        return physics, self.pays * reward, over


def paid_for_the_first_time(least):
    """Probability of the action that pays before and after its first payment, which 20 updates without any precede."""
    rates = {"lr": 1e-2, "gamma": 0.0, "minibatches": 1, "epochs": 4, "min_return_deviation": least}
    config = tiny_config("probe_static", "markov", num_envs=32, steps=10**7, ppo=rates)
    program, states = build(config)
    kept = {field.name: getattr(program.env, field.name) for field in dataclasses.fields(program.env)}
    update = jax.jit(lambda env, state: program.algorithm.update(env, program.algorithm.hyper, state))

    def env(pays):
        return Late(**{**kept, "initial": jnp.array([1.0, 0.0]), "pays": jnp.float32(pays)})

    def chance(state):
        features = program.agent.normalise(state.normaliser, "features", jnp.ones((1, 1)))
        return float(jax.nn.softmax(program.agent.policy(state.policy_params, features)[0])[0, 0])

    state = jax.tree.map(lambda x: x[0], states)
    for _ in range(20):
        state, _ = update(env(0.0), state)
    after, metrics = update(env(1.0), state)
    return chance(state), chance(after), float(metrics["ppo/value_loss"])


def test_the_first_reward_after_many_updates_without_any_is_learnt_from():
    before, after, error = paid_for_the_first_time(0.1)
    assert error < 0.5 * (1.0 / 0.1) ** 2
    assert after > before + 0.01
    assert paid_for_the_first_time(1e-6)[2] > 1e9  # what the bound is for


@pytest.mark.parametrize("method", ["dynamite", "rl2", "markov"])
def test_the_policy_waits_for_a_belief_that_learns_by_itself(method):
    config, program, state, rollout = seen_with_statistics(method, lr=1e-2, delay=0.5)
    total = config.meta_updates(program.env.horizon)
    update = jax.jit(partial(program.algorithm.update_policy, program.env))
    for done in (0, total // 2 - 1, total // 2):
        before = state.replace(meta_updates=jnp.asarray(done))
        samples, _ = program.algorithm.policy_samples(rollout, program.algorithm.hyper[1], before)
        after, _ = update(rollout, samples, program.algorithm.hyper[1], before, jax.random.key(4))
        moved = not np.array_equal(*(jax.tree.leaves(x.policy_params)[-1] for x in (before, after)))
        assert moved == (method != "dynamite" or done >= total // 2)


@pytest.mark.parametrize("shuffle", ["episodes", "steps"])
def test_every_pass_deals_out_each_episode_or_each_step_once(shuffle, monkeypatch):
    """Steps are marked by their advantages, and the loss tells the marks of its minibatch."""
    config, program, state, rollout = seen_with_statistics("markov", shuffle=shuffle, minibatches=4, epochs=3)
    samples, _ = program.algorithm.policy_samples(rollout, program.algorithm.hyper[1], state)
    marks = np.arange(rollout.reward.size, dtype=np.float32).reshape(rollout.reward.shape)  # [H, E]
    monkeypatch.setattr(ppo, "loss", lambda policy, value, batch, **_: (value.sum(), {"marks": batch.advantage}))
    monkeypatch.setattr(jnp, "mean", lambda x: x)  # of the minibatches' terms
    marked = samples.replace(advantage=jnp.asarray(marks))
    arguments = (program.env, rollout, marked, program.algorithm.hyper[1], state, jax.random.key(4))
    seen = np.asarray(program.algorithm.update_policy(*arguments)[1]["marks"])  # [epochs, minibatches, steps]
    assert seen.shape == (3, 4, marks.size // 4)
    for epoch in seen:
        np.testing.assert_array_equal(np.sort(epoch.ravel()), marks.ravel())
    whole = [set(column) <= set(minibatch) for column in marks.T for minibatch in seen[0] if column[0] in minibatch]
    assert all(whole) == (shuffle == "episodes") and len(whole) == marks.shape[1]
    assert not np.array_equal(seen[0], seen[1])


@pytest.mark.parametrize(("anneal", "share"), [(0.0, 1.0), (0.5, 0.5), (1.0, 0.25)])
def test_the_weight_of_entropy_falls_over_the_last_part_of_training(anneal, share, monkeypatch):
    """Three quarters of training are done; the loss tells the weight that it is given."""
    config, program, state, rollout = seen_with_statistics("markov", anneal=anneal, entropy=0.4)
    monkeypatch.setattr(ppo, "loss", lambda policy, value, batch, *, hyper, **_: (value.sum(), {"w": hyper.entropy}))
    state = state.replace(meta_updates=0.75 * config.meta_updates(program.env.horizon))
    samples, _ = program.algorithm.policy_samples(rollout, program.algorithm.hyper[1], state)
    arguments = (program.env, rollout, samples, program.algorithm.hyper[1], state, jax.random.key(4))
    assert float(program.algorithm.update_policy(*arguments)[1]["w"]) == pytest.approx(0.4 * share, rel=1e-5)


def test_learning_rate_and_entropy_fall_to_zero_at_the_end():
    """With `anneal=1` the last meta-update's step size is nearly nothing: parameters hardly move."""
    config = tiny_config("probe_match", ppo={"anneal": 1.0})
    program, states = build(config)
    step = compiled(config)
    total = config.meta_updates(program.env.horizon)
    late = states.replace(meta_updates=jnp.full_like(states.meta_updates, total))
    before = jax.device_get(late.policy_params)
    after, _ = step(late)
    assert_same(before, jax.device_get(after.policy_params))


@pytest.mark.parametrize("done, rest", [(0.25, 1.0), (0.75, 0.5), (0.875, 0.25)])
def test_the_rate_of_the_belief_falls_over_the_last_part_of_training(done, rest):
    sizes: Any = {"steps": 8 * 20 * 8, "chunk": 1}
    config = tiny_config("probe_match", vae={"anneal": 0.5}, **sizes)
    fixed = tiny_config("probe_match", vae={"lr": config.vae.lr * rest, "anneal": 0.0}, **sizes)
    program, states = build(config)
    total = config.meta_updates(program.env.horizon)
    assert total == 8
    late = states.replace(meta_updates=jnp.full_like(states.meta_updates, round(done * total)))
    # Adam's first step is as long as the rate, so that the same step is made where the rates agree.
    expected = jax.device_get(compiled(fixed)(jax.tree.map(jnp.copy, late))[0].belief_params)
    found = jax.device_get(compiled(config)(late)[0].belief_params)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6), found, expected)


def test_a_policy_that_has_become_noise_is_named():
    algorithm = build(tiny_config("point_robot"))[0].algorithm
    assert algorithm.warnings({"return": [1.0, 2.0]}) == []
    assert algorithm.warnings({"ppo/action_deviation": [0.3, 2.9]}) == []
    (line,) = algorithm.warnings({"ppo/action_deviation": [0.3, 4.0]})
    assert line.startswith("actions of seed 1 have a mean deviation of 4 ") and "ppo.entropy" in line


def test_training_warns_of_a_policy_that_is_noise(tmp_path, capsys):
    """Once when it is first seen, and at the end."""
    config = tiny_config("point_robot", "markov", steps=3 * 8 * 40 * 2, seeds=1, env_options={"horizon": 40})
    network = dataclasses.replace(config.network, action_deviation=5.0)
    training.train(dataclasses.replace(config, network=network), tmp_path / "run")
    said = " ".join(capsys.readouterr().err.split())
    assert said.count("warning: actions of seed 0 have a mean deviation of") == 2
