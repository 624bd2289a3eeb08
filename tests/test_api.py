"""The Python interface: train, look, act, without a command and without a file."""

import dataclasses
import subprocess
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dynamite_jax as dj
from conftest import tiny_config
from dynamite_envs.errors import UserError
from dynamite_jax.data.rollout import play


@pytest.fixture(scope="module")
def run() -> dj.Run:
    return dj.train(tiny_config("probe_match"))


def test_every_public_name_is_there():
    assert all(callable(getattr(dj, name)) for name in dj.__all__)
    with pytest.raises(AttributeError, match="colour"):
        _ = dj.colour  # pyright: ignore[reportAttributeAccessIssue]


def test_a_preset_takes_changes_and_names_what_it_does_not_know():
    changes: Any = {"ppo.lr": 1e-3, "vae.kl_weight": 0.5}
    config = dj.preset("gridworld", "dynamite", seeds=2, **changes)
    plain = dj.preset("gridworld")
    assert (config.seeds, config.ppo.lr, config.vae.kl_weight) == (2, 1e-3, 0.5)
    assert dataclasses.replace(config, seeds=plain.seeds, ppo=plain.ppo, vae=plain.vae) == plain
    with pytest.raises(UserError, match="seed_s is no field of a config; did you mean 'seeds'?"):
        dj.preset("gridworld", seed_s=2)
    with pytest.raises(UserError, match="ppo.lr is -1; it must be > 0"):
        changes = {"ppo.lr": -1}
        dj.preset("gridworld", **changes)
    with pytest.raises(UserError, match="did you mean 'gridworld'?"):
        dj.preset("gridwrold")


def test_without_a_folder_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = dj.train(tiny_config("probe_match"))
    assert not list(tmp_path.iterdir()) and run.folder is None and run.summary is None
    for option in ("resume", "tensorboard", "wandb"):
        with pytest.raises(UserError, match=f"{option} is True; it needs out"):
            options: Any = {option: True}
            dj.train(tiny_config("probe_match"), **options)


def test_a_run_on_disk_is_the_run_in_memory(run, tmp_path):
    written = dj.train(run.config, tmp_path / "run")
    assert written.folder == tmp_path / "run" and written.summary
    assert written.summary["eval"]["return"]["per_seed"] == dj.evaluate(run, seed=run.config.seed).returns.tolist()
    loaded = dj.load_run(str(tmp_path / "run"))
    for a, b, c in zip(*map(jax.tree.leaves, (run.params, written.params, loaded.params)), strict=True):
        np.testing.assert_array_equal(a, b)
        np.testing.assert_array_equal(a, c)
    timing = ("wall_s", "steps_per_s")
    records = [[{k: v for k, v in r.items() if k not in timing} for r in one.records] for one in (run, written, loaded)]
    assert len(records[0]) == run.program.chunks and records[0] == records[1] == records[2]


def test_an_evaluation_has_the_return_of_every_seed(run):
    evaluation = dj.evaluate(run, episodes=32)
    assert evaluation.returns.shape == (run.config.seeds,) and evaluation.record["episodes"] == 32
    np.testing.assert_array_equal(evaluation.returns, dj.evaluate(run, episodes=32).returns)
    with pytest.raises(UserError, match="episodes is 0"):
        dj.evaluate(run, episodes=0)


@pytest.mark.parametrize("env, method", [("probe_match", "dynamite"), ("point_robot", "secbad"), ("gridworld", "rl2")])
def test_a_policy_acts_as_its_agent_does_in_a_rollout(env, method):
    """Whole episodes of two environments at once, and of each alone by the policy."""
    run = dj.train(tiny_config(env, method, env_options={"horizon": 12}))
    program, params = run.program, jax.tree.map(lambda x: x[1], jax.device_get(run.params))
    start = jax.vmap(program.env.reset)(jax.random.split(jax.random.key(0), 2))
    rollout, _, _ = play(program.agent, program.env, params, start, jax.random.key(1), deterministic=True)
    policy, step = run.policy(seed=1), jax.jit(program.env.step)
    for episode in range(2):
        state, environment = policy.init(), jax.tree.map(lambda x, e=episode: x[e], start)
        for t in range(12):
            action, state = policy.act(state, environment.obs, environment.reward)
            expected = program.env.action_space.clip(rollout.action[t, episode])
            np.testing.assert_allclose(action, expected, rtol=1e-4, atol=1e-5)
            environment = step(environment, action)


def test_a_policy_ignores_a_reward_before_the_first_action(run):
    policy, observation = run.policy(), jnp.ones(1)
    first, second = (policy.act(policy.init(), observation, reward) for reward in (0.0, 5.0))
    jax.tree.map(np.testing.assert_array_equal, first, second)
    later = [policy.act(first[1], observation, reward)[1].belief.hidden for reward in (0.0, 5.0)]
    assert not np.array_equal(*later)


def test_a_policy_samples_with_a_key(run):
    policy = run.policy()
    keys = jax.random.split(jax.random.key(0), 64)
    sampled = {int(policy.act(policy.init(), jnp.ones(1), 0.0, key)[0]) for key in keys}
    assert sampled == {0, 1}


def test_a_policy_refuses_another_observation_and_a_run_another_seed(run):
    with pytest.raises(UserError, match=r"observation is of shape \[3\]; it must be \[1\]"):
        run.policy().act(run.policy().init(), np.zeros(3))
    with pytest.raises(UserError, match="seed is 2; it must be from 0 to 1"):
        run.policy(seed=2)


def test_environments_are_made_by_name():
    env = dj.make_env("gridworld", p=0.5)
    assert float(env.p) == 0.5
    with pytest.raises(UserError, match="did you mean 'swap'"):
        dj.make_env("gridworld", swp=0.5)


def test_names_that_are_taken_are_refused():
    with pytest.raises(UserError, match="gridworld"):
        dj.register_env("gridworld", lambda: None)  # pyright: ignore[reportArgumentType]
    with pytest.raises(UserError, match="dynamite"):
        dj.register_method("dynamite", lambda config, env: None)


def test_a_plugin_that_is_not_there_is_one_line(tmp_path):
    for words in (["--plugin", "nowhere"], ["--plugin=nowhere"]):
        command = [sys.executable, "-m", "dynamite_jax.train", *words, "--out", "run"]
        process = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        assert (process.returncode, process.stdout) == (2, "")
        assert process.stderr == "error: plugin is 'nowhere'; it must be a module that can be imported from here\n"
    assert not list(tmp_path.iterdir())


def test_a_bug_in_a_plugin_traces(tmp_path):
    (tmp_path / "broken.py").write_text("import nowhere_else\n")
    command = [sys.executable, "-m", "dynamite_jax.train", "--plugin", "broken"]
    process = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert process.returncode == 1 and "Traceback" in process.stderr and "nowhere_else" in process.stderr
