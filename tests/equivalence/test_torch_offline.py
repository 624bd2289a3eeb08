"""The offline learners in PyTorch compute what this project's do: the same weights and steps on both sides."""

import json
import subprocess
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from torch_weights import module_with, tensor  # isort: skip  (first: it skips where there is no PyTorch)

from dynamite_jax import config as configs
from dynamite_jax.algorithms.learners import LEARNERS, Transitions, Weights
from dynamite_jax.algorithms.offline import _optimiser
from experiments.versus_torch import offline as benchmark
from experiments.versus_torch.torch_reference import offline as theirs
from experiments.versus_torch.torch_reference import weights as conversion
from recorded import collected, offline_config, program_of

ENVS = {"iql": "probe_match", "iql, continuous": "point_robot", "td3bc": "point_robot"}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    for env in ("probe_match", "point_robot"):
        collected(folder / env, env, episodes=32, shard=16)
    return folder


def both(name: str, data: Any) -> tuple[Any, Any, Weights, Any, Any, theirs.Learner]:
    """The algorithm, hyperparameters, weights and slow critics of ours, and the learner in PyTorch with all of them."""
    learner = name.partition(",")[0]
    own = {"learner": learner, "noise": 0.0, "critics": 3, "max_grad_norm": 0.3}
    config = offline_config(data / ENVS[name], ENVS[name], "markov", offline=own)
    algorithm: Any = program_of(config).algorithm
    env = configs.environment(config)
    one, other = (algorithm.init(env, jnp.asarray(seed)) for seed in (0, 1))
    continuous = env.action_space.zeros(()).ndim == 1
    features = jax.tree.leaves(one.critic_params)[1].shape[1] - continuous * env.action_space.size
    module = theirs.Learner(config, features, env.action_space.size, continuous=continuous)
    module_with(module.actor, one.policy_params)
    for ensemble, params in ((module.critics, one.critic_params), (module.slow, other.critic_params)):
        for number, critic in enumerate(ensemble):
            of_one = jax.tree.map(lambda x, number=number: x[number], next(iter(params["params"].values())))
            critic.load_state_dict({key: tensor(x) for key, x in conversion.from_flax(of_one).items()})
    return algorithm, config.offline, Weights(one.policy_params, one.critic_params), other.critic_params, one, module


def steps(algorithm: Any, module: theirs.Learner, count: int = 12) -> tuple[Transitions, theirs.Transitions]:
    """Random steps on both sides; some actions are at the bounds, some steps end the task."""
    first: Any = module.actor.policy.layers[0]
    rng, features = np.random.default_rng(0), first.in_features
    space = algorithm.agent.space
    discrete = space.zeros(()).ndim == 0
    action = rng.integers(space.size, size=count) if discrete else rng.uniform(-1, 1, (count, space.size))
    arrays = {
        "features": rng.normal(size=(count, features)).astype(np.float32),
        "following": rng.normal(size=(count, features)).astype(np.float32),
        "action": action if discrete else action.astype(np.float32),
        "reward": rng.normal(size=count).astype(np.float32),
        "terminated": rng.random(count) < 0.3,
    }
    ours = Transitions(**jax.tree.map(jnp.asarray, arrays), weight=jnp.ones(count))
    return ours, theirs.Transitions(**{name: tensor(x) for name, x in arrays.items()})


@pytest.mark.parametrize("name", ENVS)
def test_losses_and_gradients_agree(name, data):
    algorithm, hyper, weights, slow, _, module = both(name, data)
    ours, batch = steps(algorithm, module)
    loss = LEARNERS[hyper.learner]
    (expected, _), gradient = jax.value_and_grad(
        lambda weights: loss(algorithm.networks, weights, slow, ours, jax.random.key(0), hyper), has_aux=True
    )(weights)
    result = module.loss(batch)
    result.backward()
    np.testing.assert_allclose(result.item(), expected, rtol=2e-5)
    critics = next(iter(gradient.critics["params"].values()))
    wanted = [(module.actor, gradient.policy["params"])]
    wanted += [(c, jax.tree.map(lambda x, n=n: x[n], critics)) for n, c in enumerate(module.critics)]
    for part, tree in wanted:
        flat = conversion.from_flax(tree)
        named = dict(part.named_parameters())
        assert named.keys() == flat.keys()
        for key, parameter in named.items():
            given = np.zeros_like(flat[key]) if parameter.grad is None else parameter.grad.numpy()
            np.testing.assert_allclose(given, flat[key], rtol=1e-3, atol=2e-5 * max(1.0, np.abs(flat[key]).max()))
    assert all(parameter.grad is None for parameter in module.slow.parameters())


def test_an_optimiser_step_agrees(data):
    import optax

    algorithm, hyper, weights, slow, state, module = both("iql, continuous", data)
    ours, batch = steps(algorithm, module)
    loss = LEARNERS[hyper.learner]
    gradient = jax.grad(lambda w: loss(algorithm.networks, w, slow, ours, jax.random.key(0), hyper), has_aux=True)(
        weights
    )[0]
    change, _ = _optimiser(0.5, hyper).update(gradient, state.optimiser)
    before: Any = weights
    after: Any = optax.apply_updates(before, change)
    module.step(batch, 0.5)
    for name, x in conversion.from_flax(after.policy["params"]).items():
        np.testing.assert_allclose(module.actor.state_dict()[name].numpy(), x, atol=2e-6)
    slow_after: Any = optax.incremental_update(after.critics, slow, hyper.polyak)
    first = jax.tree.map(lambda x: x[0], next(iter(slow_after["params"].values())))
    for name, x in conversion.from_flax(first).items():
        np.testing.assert_allclose(module.slow[0].state_dict()[name].numpy(), x, atol=2e-6)


def test_the_program_reports_its_steps(data, tmp_path):
    config = offline_config(data / "point_robot", "point_robot", "markov")
    configs.save(config, tmp_path / "config.json")
    command = [sys.executable, "-m", "experiments.versus_torch.torch_reference.offline"]
    words = ["--config", str(tmp_path / "config.json"), "--batch", "8", "--steps", "3000"]
    done = subprocess.run([*command, *words], capture_output=True, text=True, check=True)
    counts = [json.loads(line)["steps"] for line in done.stdout.splitlines()]
    assert counts == sorted(set(counts)) and 0 < counts[0] < counts[-1] <= 3000


@pytest.mark.parametrize(
    ("changes", "words", "line"),
    [
        ({"offline.learner": "cql"}, [], "offline.learner is 'cql'; in PyTorch it must be iql or td3bc"),
        ({"offline.relabel": 0.5}, [], "offline.relabel is 0.5; in PyTorch it must be 0.0"),
        ({"offline.data": "/nowhere"}, [], "offline.data is '/nowhere', which holds no episodes"),
        ({"method": "dynamite"}, [], "method is 'dynamite'; in PyTorch it must be one of markov"),
        ({}, ["--batch", "0"], "batch is 0; it must be 1 or more"),
    ],
)
def test_the_program_refuses_what_it_can_not_do(changes, words, line, data, tmp_path, monkeypatch, capsys):
    config = configs.changed(offline_config(data / "point_robot", "point_robot", "markov"), changes)
    configs.save(config, tmp_path / "config.json")
    monkeypatch.setattr(sys, "argv", ["offline", "--config", str(tmp_path / "config.json"), *words])
    assert theirs.main() == 2
    assert capsys.readouterr().err == f"error: {line}\n"


def test_the_comparison_refuses_what_it_can_not_measure(refused):
    assert "cases holds 'maze iql'; allowed: gridworld iql" in refused(benchmark, "--cases", "maze iql")
    assert refused(benchmark, "--repeats", 0) == "repeats is 0; it must be more than 0"


@pytest.mark.slow
def test_the_comparison_measures_both_and_keeps_earlier_cases(tmp_path, monkeypatch, capsys):
    """Whole, with PyTorch's program and ours, each for a moment."""
    monkeypatch.setattr(benchmark, "EPISODES", 64)
    words = ["--repeats", "1", "--seconds", "0.5", "--out", str(tmp_path), "--allow-dirty"]
    monkeypatch.setattr(sys, "argv", ["offline", *words, "--cases", "gridworld iql"])
    benchmark.main()
    assert "gridworld iql: ours" in capsys.readouterr().out
    file = json.loads((tmp_path / "speed.json").read_text())
    row = file["cases"]["gridworld iql"]
    assert row["config"]["offline"]["data"] == "gridworld"
    assert 0 < row["theirs"]["median"] < row["floor"] and 0 < row["ours"]["median"] < row["floor"]
    monkeypatch.setattr(sys, "argv", ["offline", *words, "--cases"])
    benchmark.main()
    assert json.loads((tmp_path / "speed.json").read_text()) == file


def test_both_programs_take_minibatches_of_one_size(data):
    for case in benchmark.CASES:
        config = benchmark.config_of(case, data)
        env = configs.environment(config)
        assert config.num_envs * env.horizon == config.offline.minibatches * benchmark.BATCH
        assert (config.offline.learner, config.seeds) == (case.split()[1], 1)


@pytest.mark.parametrize("learner", ["iql", "td3bc"])
def test_operations_of_a_step_are_those_of_its_networks(learner, data):
    """At 256 units; backwards each product takes two, but for inputs that nothing is learnt through."""
    body, action, units = 17, 6, 256
    actor, value, q = (
        a * units + units * units + units * b for a, b in ((body, action), (body, 1), (body + action, 1))
    )
    if learner == "iql":  # besides what learns, the value in s' and the slow critics
        needed = 3 * (actor + value + 2 * q) - units * (body + body + 2 * (body + action)) + value + 2 * q
    else:  # the policy in s and s', critics, slow critics, and the first critic with the way back to its action
        needed = 3 * (actor + 2 * q) - units * (body + 2 * (body + action)) + actor + 2 * q + 2 * q
    config = benchmark.config_of(f"halfcheetah_vel {learner}", data)
    assert benchmark.flops(config) == pytest.approx(2 * benchmark.BATCH * needed, rel=0.01)
