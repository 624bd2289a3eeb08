"""The bench of beliefs: its episodes, its filter against exact ones, what it measures, and its command."""

import json
import sys
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dynamite_jax as dj
from conftest import tiny_config
from dynamite_envs import exact, registry
from dynamite_envs.errors import UserError
from dynamite_envs.scratch_itch.env import itch_frame
from experiments.beliefs import bench, episodes, learning, particle_filter

SIZES = ("--env", "gridworld", "--episodes", "16", "--held-out", "8", "--batch", "4", "--updates", "3")


def played(env, count=6):
    return episodes.of_random_actions(env, count, 0.7, jax.random.key(0))


def solved(name, **options) -> Any:
    return exact.find(registry.make(name, **options))


@pytest.mark.parametrize("told", [False, True], ids=["inferred", "told"])
def test_the_filter_has_the_exact_posterior(told):
    """Told of switches it starts each session anew by the kernel, and rewards within one tell of no switch."""
    env: Any = registry.make("gridworld", p=0.1, horizon=25)
    data = played(env)
    steps, solution = data.trajectories, solved("gridworld", p=0.0 if told else 0.1, horizon=25)
    rollout, posterior = [], jnp.tile(solution.init_posterior(), (6, 1))
    for t in range(24):
        rollout.append(posterior)
        after = jax.tree.map(lambda x, t=t: x[t + 1], data.physics)
        posterior = jax.vmap(solution.filter_step)(posterior, after, steps.reward[t])
        if told:
            switched = (steps.session[t + 1] != steps.session[t])[:, None]
            posterior = jnp.where(switched, posterior @ env.kernel, posterior)
    options = {"particles": 4096, "noise": 0.2, "told": told, "key": jax.random.key(1)}
    estimate = particle_filter.estimate(env, data, **options)
    np.testing.assert_allclose(estimate[:24], np.stack(rollout), atol=0.05)
    assert np.stack(rollout).std() > 0.2


def test_systematic_draws_are_as_frequent_as_their_weights():
    weight = jnp.array([0.1, 0.0, 0.65, 0.25])
    drawn = np.stack([particle_filter.systematic(jax.random.key(seed), weight) for seed in range(400)])
    np.testing.assert_allclose(np.bincount(drawn.ravel(), minlength=4) / drawn.size, weight, atol=0.03)
    assert {int((row == 2).sum()) for row in drawn} <= {2, 3}  # 2.6 on average


def test_a_context_that_moves_the_body_is_refused():
    env = registry.make("halfcheetah_wind", horizon=2, impl="jax")
    with pytest.raises(UserError, match="the filter reads contexts off rewards alone"):
        particle_filter.estimate(env, played(env, 1), particles=4, noise=0.1, told=True, key=jax.random.key(0))


def test_episodes_are_those_of_the_environment():
    env = registry.make("point_robot", p=0.3, horizon=9)
    data = played(env)

    def dynamics(physics, context, action):
        return env.dynamics(physics, context, action, jax.random.key(0))[:2]

    moved = jax.vmap(jax.vmap(dynamics))
    after, reward = moved(data.physics, data.context, data.trajectories.action)
    np.testing.assert_allclose(reward, data.trajectories.reward, atol=1e-6)
    np.testing.assert_allclose(jax.tree.leaves(after)[0][:-1], jax.tree.leaves(data.physics)[0][1:], atol=1e-6)
    since, session = np.asarray(data.since), np.asarray(data.trajectories.session)
    for t, n in np.ndindex(9, 6):
        assert since[t, n] == sum(session[j, n] == session[t, n] for j in range(t))
    np.testing.assert_array_equal(data.part(2, 4).facts, data.facts[:, 2:4])


@pytest.mark.parametrize("method", ["dynamite", "oracle"])
def test_a_run_plays_its_own_episodes(method):
    """Its observations are those of the environment, without the context that an oracle sees beside them."""
    config = tiny_config("point_robot", method, seeds=1, env_options={"horizon": 12})
    run = dj.train(config)
    data = episodes.of_run(run, 5, jax.random.key(0))
    env = run.program.env.unwrapped
    seen = jax.vmap(jax.vmap(env.observe))(data.physics)
    np.testing.assert_allclose(data.trajectories.observation[:-1], seen, rtol=1e-6)
    deviation = np.asarray(data.trajectories.action).std()
    assert data.facts.shape[:2] == (12, 5) and 0.05 < deviation < 3.0


def test_the_bench_measures_on_episodes_of_a_run(refused, monkeypatch, capfd, tmp_path):
    folder = tmp_path / "run"
    dj.train(tiny_config("point_robot", seeds=1, env_options={"horizon": 12, "p": 0.0}), folder)
    capfd.readouterr()
    sizes = ("--episodes", "8", "--held-out", "8", "--batch", "4", "--updates", "2", "--set", "network.hidden=8")
    monkeypatch.setattr(sys, "argv", ["bench", "--env", "point_robot", "--run", str(folder), *sizes])
    bench.main()
    assert json.loads(capfd.readouterr().out.splitlines()[-1])["since"] == [3, 10]  # of 12 steps
    message = "env is gridworld {'horizon': 12, 'p': 0.0}; the run is of point_robot {'horizon': 12, 'p': 0.0}"
    assert message in refused(bench, "--env", "gridworld", "--run", folder, *sizes)


def test_where_it_itches_is_a_place_in_cm():
    env = registry.make("scratch_itch", horizon=1)
    state = env.reset(jax.random.key(3))
    facts = episodes.facts(env, state.physics, state.context)
    np.testing.assert_allclose(facts[episodes.place(env)], 100 * itch_frame(state.physics.female, state.context)[0])
    assert facts.shape == (7,)
    np.testing.assert_allclose(facts[:4], env.context_features(state.context))


def test_measured_are_distances_and_shares_of_variance():
    rng = np.random.default_rng(0)
    session = np.zeros((50, 7), int)
    facts, missed = rng.normal(size=(50, 7, 2)), rng.normal(size=(50, 7, 2))
    data: Any = SimpleNamespace(
        since=np.arange(50)[:, None] - session,
        facts=facts,
        trajectories=SimpleNamespace(valid=np.ones((50, 7), bool)),
    )
    record = bench.measured(facts + missed, data, registry.make("point_robot"))
    for steps, error, explained in zip((3, 10, 20, 40), record["error"], record["explained"], strict=True):
        assert error == pytest.approx(np.hypot(*missed[steps].T).mean())
        np.testing.assert_allclose(explained, 1 - (missed[steps] ** 2).mean(0) / facts[steps].var(0))


def test_facts_are_read_off_beliefs_that_hold_them():
    rng = np.random.default_rng(0)
    facts = rng.normal(size=(20, 80, 2))
    features = np.stack([facts[..., 0] ** 3, facts.sum(-1), rng.normal(size=(20, 80))], axis=-1)
    fitted, tested = jnp.asarray(features[:, :60]), jnp.asarray(features[:, 60:])
    read = learning.read(fitted, jnp.asarray(facts[:, :60]), tested, jax.random.key(0))
    assert ((np.asarray(read) - facts[:, 60:]) ** 2).mean() < 0.05


TAUGHT = pytest.param("task_inference", marks=pytest.mark.slow)


@pytest.mark.parametrize("method", ["dynamite", TAUGHT, "filter", "filter_told"])
def test_the_bench_measures(method, monkeypatch, capsys, tmp_path):
    options = ("--method", method, "--particles", "32", "--noise", "0.2", "--out", str(tmp_path / "beliefs.json"))
    for _ in range(2):
        monkeypatch.setattr(sys, "argv", ["bench", *SIZES, *options, "--set", "network.hidden=8", "env_options={}"])
        bench.main()
    printed = json.loads(capsys.readouterr().out.splitlines()[-1])
    kept = json.loads((tmp_path / "beliefs.json").read_text())["variants"]
    assert len(kept) == 2 and kept[1] == printed and printed["error"] == kept[0]["error"]
    assert printed["since"] and np.isfinite(printed["error"]).all()


@pytest.mark.parametrize(
    "options, message",
    [
        (("--method", "rl2"), "method is 'rl2', whose belief has no loss of its own"),
        (("--method", "dynamit"), "method is 'dynamit'; did you mean 'dynamite'"),
        (("--set", "vae.lr"), "set is 'vae.lr'; it must be name=value"),
        (("--set", "vae.rate=1"), "vae.rate is no field of a config"),
        (("--run", "nowhere"), "run is 'nowhere'; it must be a run folder"),
        (("--out", "foreign.json"), "out is 'foreign.json', which holds no measurements of beliefs; move it away"),
        (("--held-out", "0"), "held_out is 0; it must be at least 1"),
    ],
)
def test_what_the_bench_can_not_measure_is_refused(options, message, refused, tmp_path):
    (tmp_path / "foreign.json").write_text('{"runs": {}}')
    assert message in refused(bench, *SIZES, *options)
