"""The PyTorch reference as a program: its environments, its training loop, its command line."""

import dataclasses
import json
import subprocess
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from torch_weights import module_with, tensor, torch  # isort: skip  (first: it skips where there is no PyTorch)

from conftest import build as build_program
from conftest import tiny_config
from dynamite_envs import registry
from dynamite_envs.half_cheetah import Task
from dynamite_jax import config as configs
from dynamite_jax.agents import running_statistics
from dynamite_jax.agents.distributions import policy_distribution
from dynamite_jax.algorithms.meta_ppo import MetaPPO, discount
from dynamite_jax.algorithms.optimisation import remaining
from dynamite_jax.data.types import Rollout
from episodes import statistics
from experiments.versus_torch import jax_program
from experiments.versus_torch.torch_reference import elbo, environments
from experiments.versus_torch.torch_reference.trainer import Trainer


def test_the_gridworld_moves_and_pays_alike():
    ours, theirs, n = registry.make("gridworld"), environments.make("gridworld", 64, 0), 64
    theirs.reset(seed=3)
    states = jax.vmap(ours.reset)(jax.random.split(jax.random.key(0), n))
    rng, goals_reached = np.random.default_rng(0), 0.0
    for _ in range(40):
        physics = states.physics.replace(agent=jnp.asarray(theirs.agent), goals=jnp.asarray(theirs.goals))
        states = states.replace(physics=physics, context=jnp.asarray(theirs.context))
        action = rng.integers(0, 5, n)
        states = jax.vmap(ours.step)(states, jnp.asarray(action))
        observation, reward, _, _, _ = theirs.step(action)
        np.testing.assert_array_equal(observation, states.obs)
        np.testing.assert_array_equal(reward, states.reward)
        goals_reached += (reward == 1.0).sum()
    assert goals_reached > 10


def test_the_half_cheetah_moves_and_pays_alike():
    """As far as one step of MJX in float32 and one of C MuJoCo in float64 agree; `test_physics` says how far."""
    ours, theirs, n = registry.make("halfcheetah_vel"), environments.make("halfcheetah_vel", 8, 0), 8
    theirs.reset(seed=3)
    step = jax.jit(jax.vmap(ours.step))
    states = jax.vmap(ours.reset)(jax.random.split(jax.random.key(0), n))
    rng = np.random.default_rng(0)
    for _ in range(30):
        stacked = [
            np.stack([getattr(data, name) for data in theirs.data]) for name in ("qpos", "qvel", "qacc_warmstart")
        ]
        qpos, qvel, warmstart = (jnp.asarray(x, jnp.float32) for x in stacked)
        context = Task(jnp.asarray(theirs.context, jnp.float32), jnp.ones(n), jnp.zeros(n))
        physics = states.physics.replace(qpos=qpos, qvel=qvel, warmstart=warmstart)
        states = states.replace(physics=physics, context=context)
        action = rng.normal(size=(n, 6)).astype(np.float32)
        states = step(states, jnp.asarray(action))
        observation, reward, _, truncated, _ = theirs.step(action)
        np.testing.assert_allclose(observation[:, :8], states.obs[:, :8], atol=5e-5)
        np.testing.assert_allclose(observation[:, 8:], states.obs[:, 8:], atol=2e-3)
        np.testing.assert_allclose(reward, states.reward, atol=2e-3)
        assert not truncated.any()
    assert np.abs(observation).max() > 1.0


@pytest.mark.parametrize("name", environments.MAKERS)
def test_sessions_end_and_contexts_change_as_ours_do(name):
    env, ours = environments.make(name, {"gridworld": 4000, "halfcheetah_vel": 200}[name], 0), registry.make(name)
    _, info = env.reset(seed=0)
    np.testing.assert_array_equal(info["session"], 0)
    before, after, switches, steps = [], [], 0, 20
    action = np.zeros(env.action_space.shape, env.action_space.dtype)
    for _ in range(steps):
        context, session = env.context.copy(), env.session.copy()
        _, _, _, _, info = env.step(action)
        np.testing.assert_array_equal(info["session"], session)
        moved = env.session != session
        np.testing.assert_array_equal(env.session - session, moved)
        np.testing.assert_array_equal(env.context[~moved], context[~moved])
        switches += moved.sum()
        before, after = [*before, *context[moved]], [*after, *env.context[moved]]
    rate, n = float(ours.p), steps * env.num_envs
    assert abs(switches / n - rate) < 4 * np.sqrt(rate * (1 - rate) / n)
    before, after = np.array(before), np.array(after)
    if name == "gridworld":
        swapped, error = np.mean(before != after), 4 * np.sqrt(0.16 / len(before))
        assert abs(swapped - 0.8) < error
    else:
        inside = (after > 0) & (after < 3)
        assert abs(np.mean((after - (3 - before))[inside])) < 0.15
        assert after.min() >= 0
        assert after.max() <= 3


@pytest.mark.parametrize("name", environments.MAKERS)
def test_workers_step_what_one_process_steps(name):
    """A worker's part is an environment of its own, with a seed of its own."""
    together = environments.make(name, 4, 2)
    try:
        seeds = np.random.SeedSequence(7).generate_state(2)
        parts = [environments.make(name, 2, 0) for _ in seeds]
        observation, _ = together.reset(seed=7)
        alone = [part.reset(seed=int(seed))[0] for part, seed in zip(parts, seeds, strict=True)]
        np.testing.assert_array_equal(observation, np.concatenate(alone))
        rng = np.random.default_rng(0)
        for t in range(together.horizon):
            action = np.stack([together.single_action_space.sample() for _ in range(4)]) if t % 2 else None
            if action is None:
                action = np.asarray(rng.integers(0, 2, together.action_space.shape), together.action_space.dtype)
            observation, reward, _, truncated, info = together.step(action)
            apart = [part.step(half) for part, half in zip(parts, np.split(action, 2), strict=True)]
            np.testing.assert_array_equal(observation, np.concatenate([step[0] for step in apart]))
            np.testing.assert_array_equal(reward, np.concatenate([step[1] for step in apart]))
            np.testing.assert_array_equal(info["session"], np.concatenate([step[4]["session"] for step in apart]))
            assert truncated.all() == (t == together.horizon - 1)
    finally:
        together.close()


def agents(**changes):
    """An agent in JAX with running statistics of its own, and a PyTorch trainer with its weights and statistics."""
    config = tiny_config("gridworld", **changes)
    program, states = build_program(config)
    state = jax.tree.map(lambda x: x[0], states)
    size = 6 + 2 * config.network.latent
    state = state.replace(normaliser=statistics(size, 6))
    env = environments.make("gridworld", config.num_envs, 0)
    env.reset(seed=0)
    trainer: Any = Trainer(config, env, meta_updates=40)
    for module in (trainer.model, trainer.acting):
        module_with(module, state.belief_params)
    module_with(trainer.policy, state.policy_params)
    for name, moments in trainer.statistics.items():
        moments.mean, moments.deviation = (tensor(x) for x in running_statistics.moments(state.normaliser, name))
        moments.count = float(state.normaliser.count.value)
        moments.squares = moments.count * moments.deviation**2
    return config, program, state, trainer


@pytest.mark.parametrize("normalised", [True, False])
def test_an_episode_shows_the_policy_what_ours_would(normalised):
    """Features, values and samples of an episode played in PyTorch, from the same observations, actions, rewards."""
    config, program, state, trainer = agents(ppo={"normalise_returns": normalised})
    played = trainer.play()
    agent, space = program.agent, program.env.action_space
    names = ("observation", "action", "reward", "session", "features", "log_prob", "value")
    recorded = {name: jnp.asarray(getattr(played, name).numpy()) for name in names}
    recorded["action"] = recorded["action"].astype(jnp.int32)
    zeros = jnp.zeros_like(recorded["reward"], bool)
    rollout = Rollout(**recorded, terminated=zeros, boundary=zeros, valid=~zeros)
    beliefs = agent.belief.encode(state.belief_params, agent.evidence(state.normaliser, rollout.trajectories))
    features = jnp.concatenate([recorded["observation"][:-1], beliefs.belief.features], axis=-1)
    np.testing.assert_allclose(recorded["features"][:-1], features, atol=2e-5)
    policy, value = agent.policy(state.policy_params, agent.normalise(state.normaliser, "features", features))
    log_prob = policy_distribution(policy, space).log_prob(recorded["action"])
    np.testing.assert_allclose(recorded["log_prob"], log_prob, atol=2e-5)
    np.testing.assert_allclose(recorded["value"][:-1], value, atol=2e-5)
    again = trainer.encoded_again(played).features
    np.testing.assert_allclose(again, MetaPPO(config, agent).encoded_again(rollout, state).features, atol=2e-5)
    after, expected = MetaPPO(config, agent).policy_samples(rollout, config.ppo, state)
    samples = trainer.samples(played)
    for name in ("features", "action", "log_prob", "value", "advantage", "target"):
        flat = getattr(expected, name).reshape(-1, *getattr(expected, name).shape[2:])
        np.testing.assert_allclose(getattr(samples, name), flat, atol=1e-4, err_msg=name)
    returns = trainer.statistics["returns"]
    moved = running_statistics.moments(after.normaliser, "returns")
    np.testing.assert_allclose((returns.mean, returns.deviation), moved, atol=1e-4)


def test_a_meta_update_moves_both_networks_and_takes_in_what_was_seen():
    _, _, _, trainer = agents()
    before = trainer.arrays()
    before = {name: x.copy() for name, x in before.items()}
    seen = trainer.statistics["reward"].count
    mean_return = trainer.meta_update()
    assert -6.0 <= mean_return <= 60.0
    assert trainer.completed_updates == 1
    assert trainer.statistics["reward"].count == seen + 8 * 60
    for name, x in trainer.arrays().items():
        assert not np.array_equal(x, before[name]) or name.endswith("previous_gates.weight"), name


def test_the_policy_learns_on_the_very_inputs_that_it_will_act_on():
    _, _, _, trainer = agents(vae={"average_rate": 0.5, "lr": 0.02})
    play, played, learnt = trainer.play, [], []
    trainer.play = lambda: played.append(play()) or played[-1]
    trainer.update_policy = lambda samples: learnt.append(samples.features)
    trainer.meta_update()
    state, encoded, reward, features = (
        trainer.acting.encoder.initial(8),
        trainer.start.expand(8, -1),
        torch.zeros(8),
        [],
    )
    for t, observation in enumerate(played[0].observation[:-1]):
        evidence = torch.cat([trainer.normalise("observation", observation), encoded, reward[:, None]], dim=1)
        state, _, seen, _ = trainer._observe(state, observation, evidence)
        features.append(seen)
        encoded, reward = played[0].encoded[t], trainer.normalise("reward", played[0].reward[t])
    inputs = trainer.normalise("features", torch.cat(features))
    torch.testing.assert_close(learnt[0], inputs, atol=1e-4, rtol=1e-4)
    beliefs = played[0].features[:-1].flatten(0, 1)
    assert (trainer.normalise("features", beliefs) - inputs).abs().max() > 0.01


@pytest.mark.parametrize("updates", [0, 7, 15, 19, 20, 30, 39])
def test_rates_are_annealed_as_ours_are(updates):
    config, _, _, trainer = agents(vae={"anneal": 0.8, "lr": 0.3}, ppo={"anneal": 0.4, "delay": 0.2, "lr": 0.2})
    trainer.completed_updates = updates
    trainer.meta_update()
    progress = updates / 40
    belief, policy = (optimiser.param_groups[0]["lr"] for optimiser in (trainer.vae_optimiser, trainer.ppo_optimiser))
    assert belief == pytest.approx(0.3 * float(remaining(progress, 0.8)), abs=1e-6)
    assert policy == pytest.approx(0.0 if progress < 0.2 else 0.2 * float(remaining(progress, 0.4)), abs=1e-6)


@pytest.mark.parametrize("updates", [0, 5, 10, 30])
def test_the_discount_rises_as_ours_does(updates):
    config, _, _, trainer = agents(
        ppo={"gamma": 0.9, "gamma_start": 0.3, "gamma_rise": 0.25, "normalise_returns": False}
    )
    trainer.completed_updates = updates
    rollout = trainer.play()
    risen = trainer.samples(rollout)
    ours = float(discount(jnp.asarray(updates / 40), config.ppo))
    trainer.config = dataclasses.replace(config, ppo=config.ppo.replace(gamma=ours, gamma_rise=0.0))
    fixed = trainer.samples(rollout)
    np.testing.assert_allclose(risen.advantage, fixed.advantage, atol=1e-5)


def test_the_running_average_of_the_weights_acts():
    _, _, _, trainer = agents(vae={"average_rate": 0.25, "lr": 0.1})
    before = trainer.arrays()
    before = {name: x.copy() for name, x in before.items()}
    trainer.update_belief(trainer.play())
    newest = trainer.model.state_dict()
    for name, x in trainer.acting.state_dict().items():
        expected = 0.75 * before[f"belief.{name}"] + 0.25 * newest[name].numpy()
        np.testing.assert_allclose(x.numpy(), expected, rtol=1e-4, atol=1e-6)
    state, observation = trainer.acting.encoder.initial(8), torch.zeros(8, 6)
    evidence = torch.ones(8, 6 + trainer.actions + 1)
    for module, acts in ((trainer.model, False), (trainer.acting, True)):
        features = trainer._observe(state, observation, evidence)[2]
        with torch.no_grad():
            for x in module.parameters():
                x.add_(0.5)
        assert torch.equal(features, trainer._observe(state, observation, evidence)[2]) != acts


def test_the_buffer_gives_as_many_episodes_as_ours_takes_and_forgets_the_oldest():
    _, _, _, trainer = agents(vae={"buffer_episodes": 20, "trajectories": 12, "minibatches": 3})
    marked = elbo.Episodes(torch.zeros(61, 8, 6), torch.zeros(60, 8, 5), torch.zeros(60, 8), torch.zeros(60, 8))
    for number in range(4):
        trainer.buffer.add(marked._replace(session=torch.full((60, 8), number)))
    batches = list(trainer._belief_batches(marked))
    assert [batch.reward.shape[1] for batch in batches] == [4, 4, 4]
    held = trainer.buffer.arrays.session[0]
    np.testing.assert_array_equal(np.sort(held), [1] * 4 + [2] * 8 + [3] * 8)
    drawn = torch.cat([trainer.buffer.sample(100).session[0] for _ in range(3)])
    assert set(drawn.tolist()) == {1, 2, 3}


def run_reference(*flags):
    command = [sys.executable, "-m", "experiments.versus_torch.torch_reference", *map(str, flags)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


def test_the_program_says_how_far_it_is_and_saves_what_ours_can_load(tmp_path):
    config = tiny_config("gridworld", steps=8 * 60 * 3)  # rounded up to two chunks of two updates
    configs.save(config, tmp_path / "config.json")
    ran = run_reference("--config", tmp_path / "config.json", "--snapshots", tmp_path, "--every", 2)
    assert ran.returncode == 0, ran.stderr
    lines = [json.loads(line) for line in ran.stdout.splitlines()]
    assert [line["steps"] for line in lines] == [480, 960, 1440, 1920]
    assert ["snapshot" in line for line in lines] == [False, True, False, True]
    program, states = build_program(config)
    like = jax.tree.map(lambda x: x[0], jax.device_get(states.agent_params))
    with np.load(lines[-1]["snapshot"]) as arrays:
        acting = jax_program.agent_params(dict(arrays), like)
    assert jax.tree.map(np.shape, acting) == jax.tree.map(np.shape, like)


@pytest.mark.parametrize(
    "change, flags, named",
    [
        ({"method": "oracle"}, [], "method is 'oracle'"),
        ({"env": "reacher"}, [], "env is 'reacher'"),
        ({"env_options": ("p=0.1",)}, [], "env_options holds no options by name"),
        ({"env_options": {"wings": 2}}, [], "env_options sets wings"),
        ({}, ["--workers", "3"], "workers is 3"),
        ({}, ["--threads", "0"], "threads is 0"),
        ({}, ["--wings"], "--wings"),
    ],
)
def test_bad_input_of_the_program_is_one_line_and_exit_code_2(change, flags, named, tmp_path):
    configs.save(dataclasses.replace(tiny_config("gridworld"), **change), tmp_path / "config.json")
    ran = run_reference("--config", tmp_path / "config.json", *flags)
    assert ran.returncode == 2
    assert len(ran.stderr.splitlines()) == 1
    assert named in ran.stderr


def test_a_config_of_another_version_is_one_line_and_exit_code_2(tmp_path):
    configs.save(tiny_config("gridworld"), tmp_path / "config.json")
    saved = json.loads((tmp_path / "config.json").read_text())
    del saved["vae"]["anneal"]
    (tmp_path / "config.json").write_text(json.dumps(saved))
    ran = run_reference("--config", tmp_path / "config.json")
    assert ran.returncode == 2
    assert ran.stderr == "error: the config holds no 'anneal'\n"
