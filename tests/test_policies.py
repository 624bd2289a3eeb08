"""A trained policy as files: what it does after it was loaded, and files that are refused."""

import json
import re
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import dynamite_jax as dj
from conftest import assert_same, build, tiny_config
from dynamite_envs.errors import UserError
from dynamite_jax.commands import export
from dynamite_jax.config import NetworkConfig
from dynamite_jax.data.rollout import play
from dynamite_jax.methods import of_setting
from dynamite_jax.policies import Policy
from episodes import statistics

DOCS = Path(__file__).parents[1] / "docs" / "api.md"
CASES = [("gridworld", method, {}) for method in of_setting("online")]
CASES += [("point_robot", "dynamite", {}), ("reacher", "rl2", {}), ("probe_termination", "secbad", {"env_options": {}})]
CASES += [("gridworld", "dynamite", {"network": NetworkConfig(encoder="transformer", hidden=16, heads=2)})]


def policy_of(env, method="dynamite", **changes) -> tuple[Any, Policy]:
    """The program, and a policy with statistics and weights unlike those of the start."""
    config = tiny_config(env, method, **{"env_options": {"horizon": 20}, **changes})
    program, states = build(config)
    params = jax.tree.map(lambda x: jnp.asarray(x[0]), jax.device_get(program.gather(states).agent_params))
    features, observation = (getattr(params.normaliser.mean, name).value.size for name in ("features", "observation"))
    noise = np.random.default_rng(0)

    def moved(x):
        return x + jnp.asarray(0.5 * noise.normal(size=x.shape), x.dtype)

    networks = jax.tree.map(moved, (params.belief_params, params.policy_params))
    params = params.replace(
        belief_params=networks[0], policy_params=networks[1], normaliser=statistics(features, observation)
    )
    return program, Policy(program.config, program.agent, params)


@pytest.mark.parametrize("env, method, changes", CASES)
def test_a_loaded_policy_acts_as_it_did_and_as_evaluations_do(env, method, changes, tmp_path):
    """Bit for bit as before it was saved; over whole episodes as in the rollout of many, by JAX alone likewise."""
    program, policy = policy_of(env, method, **changes)
    policy.save(tmp_path / "policy")
    loaded = dj.load_policy(tmp_path / "policy")
    assert_same(loaded.params, policy.params)
    batch = 3
    start = jax.vmap(program.env.reset)(jax.random.split(jax.random.key(5), batch))
    rollout, _, _ = jax.jit(partial(play, program.agent, program.env, deterministic=True))(
        policy.params, start, key=jax.random.key(6)
    )
    rollout = jax.device_get(rollout)
    if method == "dynamite":
        assert 0 < rollout.boundary[rollout.valid].mean() < 1
    init, act = (
        jax.export.deserialize(bytearray((tmp_path / "policy" / f"{name}.stablehlo").read_bytes())).call
        for name in ("init", "act")
    )
    together = init(rollout.observation[0])
    states = [[each.init() for each in (policy, loaded)] for _ in range(batch)]
    executed = program.env.action_space.clip(rollout.action)
    for t in range(program.env.horizon):
        reward = rollout.reward[t - 1] if t else np.zeros(batch, np.float32)
        actions, boundaries, together = act(together, rollout.observation[t], reward)
        for n in np.flatnonzero(rollout.valid[t]):
            before, after = (
                each.act(state, rollout.observation[t, n], reward[n])
                for each, state in zip((policy, loaded), states[n], strict=True)
            )
            assert_same(before, after)
            states[n] = [before[1], after[1]]
            for action in (after[0], actions[n]):
                np.testing.assert_allclose(action, executed[t, n], atol=1e-5)
            assert loaded.boundary(after[1]) == boundaries[n] == rollout.boundary[t, n]


def test_the_snippets_of_the_docs_act(tmp_path, monkeypatch):
    """The one without this package in a process that can't import it."""
    _, policy = policy_of("gridworld")
    policy.save(tmp_path / "policy")
    monkeypatch.chdir(tmp_path)
    from_file, alone = re.findall(r"^```python\n(.*?)^```", DOCS.read_text(), re.DOTALL | re.MULTILINE)[2:4]
    assert "load_policy" in from_file and "dynamite" not in alone
    _, *lines = filter(None, from_file.splitlines())
    assert len(lines) == 5  # behind the import

    class Done(Exception):
        pass

    taken = []

    def execute(action):
        taken.append(int(action))
        if len(taken) == 5:
            raise Done
        return 1.0

    with pytest.raises(Done):
        exec(from_file, {"sensors": lambda: np.zeros(6), "execute": execute})
    code = "import sys; sys.modules['dynamite_jax'] = sys.modules['dynamite_envs'] = None\n"
    code += alone + "print(action.tolist(), [name for name in sys.modules if name.startswith(('flax', 'distrax'))])"
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert process.stdout.strip() == f"{[taken[0]] * 3} []", process.stderr


def test_a_folder_that_is_used_is_not_overwritten(tmp_path):
    _, policy = policy_of("gridworld")
    (tmp_path / "notes.txt").touch()
    with pytest.raises(UserError, match="which is already used; name a new folder"):
        policy.save(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def cut(folder):
    data = (folder / "policy.safetensors").read_bytes()
    (folder / "policy.safetensors").write_bytes(data[:-10])


def drop(folder):
    weights = load_file(folder / "policy.safetensors")
    del weights[next(name for name in weights if "policy" in name)]
    save_file(weights, folder / "policy.safetensors")


def wider(folder):
    config = json.loads((folder / "config.json").read_text())
    config["network"]["hidden"] *= 2
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    "spoil, message",
    [
        (lambda folder: (folder / "config.json").unlink(), "config.json can't be read"),
        (lambda folder: (folder / "policy.safetensors").unlink(), "policy.safetensors can't be read"),
        (cut, "policy.safetensors is damaged"),
        (drop, "is missing; by config.json it must be float32"),
        (wider, r"is float32\[8.*; by config.json it must be float32\[16"),
    ],
)
def test_files_that_are_no_policy_are_refused(spoil, message, tmp_path):
    _, policy = policy_of("gridworld")
    policy.save(tmp_path / "policy")
    spoil(tmp_path / "policy")
    with pytest.raises(UserError, match=message):
        dj.load_policy(tmp_path / "policy")


def test_the_command_writes_the_agent_of_a_seed(tmp_path, monkeypatch, capsys):
    run = dj.train(tiny_config("probe_match"), tmp_path / "run")
    arguments = ["export", "--run", str(tmp_path / "run"), "--out", str(tmp_path / "policy"), "--seed"]
    monkeypatch.setattr(sys, "argv", [*arguments, "1"])
    export.main()
    assert capsys.readouterr().out.splitlines()[-1] == str(tmp_path / "policy")
    assert_same(dj.load_policy(tmp_path / "policy").params, run.policy(1).params)
    monkeypatch.setattr(sys, "argv", [*arguments, "2"])
    with pytest.raises(SystemExit) as stop:
        export.main()
    assert stop.value.code == 2 and "seed is 2; it must be from 0 to 1" in capsys.readouterr().err
