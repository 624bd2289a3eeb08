"""Environments of brax as ours, and ours as brax's."""

import re
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from brax import envs
from brax.envs.fast import Fast, ObservationMode
from brax.envs.wrappers import training as wrappers
from mujoco_playground import registry as playground

import dynamite_jax as dj
from dynamite_envs import registry
from dynamite_envs.brax import BraxEnv, from_brax
from dynamite_envs.errors import UserError
from dynamite_envs.registry import MAKERS
from dynamite_envs.wrappers import ObserveContext, ObserveFeedback

PAGE = Path(__file__).parents[2] / "docs" / "simulators.md"
PENDULUM, CARTPOLE, _, PPO, _ = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE)


def draw(key):
    return jax.random.uniform(key, minval=-1.0, maxval=1.0)


def turned(key, context):
    return -context


def paid(before, after, action, context):
    return context * (after.obs[0] - before.obs[0]) + action[0]


def fast(**changes) -> Any:
    body: Any = Fast()
    return from_brax(
        body, **{"init_context": draw, "next_context": turned, "reward": paid, "horizon": 9, "p": 0.4, **changes}
    )


def test_a_brax_environment_is_paid_by_the_context():
    """Bodies move as in brax; the context turns at switches alone, and decides the reward."""
    env = fast()
    state = env.reset(jax.random.key(0))
    assert (env.observation_size, env.action_space.size, env.decode_state) == (2, 1, False)
    np.testing.assert_array_equal(env.context_features(state.context), [state.context])
    body, alone = Fast(), Fast().reset(jax.random.key(0))
    switches = 0
    for t in range(9):
        action = jnp.array([0.5 if t % 2 else -0.5])
        after = env.step(state, action)
        before, alone = alone, body.step(alone, action)
        np.testing.assert_array_equal(after.obs, alone.obs)
        np.testing.assert_allclose(after.reward, paid(before, alone, action, state.context), rtol=1e-6)
        assert float(after.context) == (-float(state.context) if after.switched else float(state.context))
        switches += int(after.switched)
        state = after
    assert 0 < switches < 9 and state.truncated and not state.terminated and abs(float(state.obs[0])) > 0


def test_the_context_can_be_a_parameter_of_the_system():
    """A cart on a slope: gravity to one side moves it there; brax's own reward and end hold."""
    body: Any = envs.get_environment("inverted_pendulum", backend="spring")

    def tilted(system, sideways):
        return system.replace(gravity=jnp.array([sideways, 0.0, -9.81]))

    env = from_brax(body, init_context=draw, next_context=turned, system=tilted, p=0.0, horizon=200)
    assert env.decode_state
    step, start = jax.jit(env.step), env.reset(jax.random.key(0))
    ends = []
    for sideways in (-3.0, 3.0):
        state = start.replace(context=jnp.float32(sideways))
        for _ in range(20):
            state = step(state, jnp.zeros(1))
        ends.append(float(state.obs[0] - start.obs[0]))
        while not state.terminated:
            assert float(state.reward) == 1.0
            state = step(state, jnp.zeros(1))
        frozen = step(state, jnp.zeros(1))
        assert state.step < 200 and float(frozen.reward) == 0.0
        np.testing.assert_array_equal(frozen.obs, state.obs)
    assert ends[0] < -0.01 and ends[1] > 0.01


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"body": wrappers.EpisodeWrapper(Fast(), 10, 1)}, "it must be an environment of brax without wrappers"),
        ({"body": Fast(obs_mode=ObservationMode.DICT_STATE)}, "it must show a vector"),
        ({"reward": None}, "one of them must depend on the context"),
        ({"system": lambda system, context: system}, "which has no sys or _mjx_model; system must be None"),
    ],
)
def test_what_can_not_be_one_of_ours_is_refused(changes, message):
    body: Any = changes.pop("body", Fast())
    with pytest.raises(UserError, match=message):
        from_brax(body, **{"init_context": draw, "next_context": turned, "reward": paid, **changes})


def test_a_newcomers_environment_trains():
    assert len(PENDULUM.splitlines()) <= 30
    exec(PENDULUM, {})
    changes: Any = {"vae.minibatches": 2, "ppo.minibatches": 2, "env_options": {"horizon": 20}}
    sizes = {"seeds": 1, "num_envs": 4, "chunk": 2, "steps": 320, "eval_episodes": 8}
    run = dj.train(dj.preset("pendulum_at", **sizes, **changes))
    assert all(np.isfinite(value).all() for record in run.records for value in record.values())
    assert -20.0 < dj.evaluate(run).returns[0] <= 20.0
    del MAKERS["pendulum_at"]


def test_an_environment_of_playground_is_paid_by_the_context():
    exec(CARTPOLE, {})
    env: Any = registry.make("cartpole_at", p=1.0, horizon=4)
    del MAKERS["cartpole_at"]
    state = jax.jit(env.reset)(jax.random.key(0))
    step = jax.jit(lambda state: (env.step(state, jnp.ones(1)), env.body.step(state.physics, jnp.ones(1))))
    for _ in range(4):
        after, alone = step(state)
        np.testing.assert_allclose(after.obs, alone.obs, atol=1e-5)
        expected = float(alone.reward) - abs(float(alone.obs[0]) - float(state.context))
        assert float(after.reward) == pytest.approx(expected, abs=1e-5)
        assert float(after.context) == -float(state.context)
        state = after
    assert state.truncated


def test_the_context_can_be_a_parameter_of_playgrounds_physics():
    """A cart on a slope that turns."""
    body: Any = playground.load("CartpoleBalance", config_overrides={"impl": "jax"})

    def tilted(model, sideways):
        return model.tree_replace({"opt.gravity": jnp.array([sideways, 0.0, -9.81])})

    env = from_brax(body, init_context=draw, next_context=turned, system=tilted, p=0.0, horizon=200)
    assert env.decode_state
    step, start = jax.jit(env.step), jax.jit(env.reset)(jax.random.key(0))
    places = []
    for sideways in (-3.0, 0.0, 3.0):
        state = start.replace(context=jnp.float32(sideways))
        for _ in range(10):
            state = step(state, jnp.zeros(1))
        places.append(float(state.obs[0] - start.obs[0]))
    assert places[0] < places[1] - 0.01 < places[2] - 0.02
    np.testing.assert_allclose(body.mjx_model.opt.gravity, [0.0, 0.0, -9.81])


@pytest.mark.parametrize("observed", [False, True])
def test_one_of_ours_steps_in_brax_as_it_does_here(observed):
    """But for its first context, which is drawn with the first step, where it is hidden."""
    ours = registry.make("point_robot", horizon=6, p=0.3)
    ours = ObserveContext.of(ours) if observed else ours
    env = BraxEnv(ours, labels=True)
    theirs = jax.jit(env.reset)(jax.random.PRNGKey(3))
    state = ours.reset(jax.random.wrap_key_data(jax.random.PRNGKey(3)))
    assert (env.observation_size, env.action_size, env.episode_length) == (len(state.obs), 2, 6)
    for t in range(6):
        action = jnp.array([0.3, 0.1 * t])
        before, theirs = theirs, jax.jit(env.step)(theirs, action)
        if observed:
            state = ours.step(state, action)
            np.testing.assert_allclose(theirs.obs, state.obs, rtol=1e-6)
            np.testing.assert_allclose(theirs.reward, state.reward, rtol=1e-6)
        moved = before.obs[:2] + 0.1 * action
        np.testing.assert_allclose(theirs.obs[:2], moved, rtol=1e-6)
        if not theirs.metrics["switches"]:
            distance = np.linalg.norm(moved - theirs.info["context"])
            assert float(theirs.reward) == pytest.approx(-distance, rel=1e-5)
    assert float(theirs.done) == 0.0 and int(theirs.info["session"]) == int(theirs.pipeline_state.session)


@pytest.mark.parametrize("asked", [True, False])
def test_feedback_is_observed_in_brax(asked):
    """A context that is shown is still the one that holds, whatever wraps it."""
    ours = ObserveContext.of(registry.make("point_robot", p=0.0))
    env = BraxEnv(ours, labels=True, feedback=True) if asked else BraxEnv(ObserveFeedback.of(ours), labels=True)
    state = jax.jit(env.reset)(jax.random.PRNGKey(0))
    assert state.obs.shape == (env.observation_size,) == (7,) and not state.obs[4:].any()
    after = jax.jit(env.step)(state, jnp.array([0.5, -2.0]))
    np.testing.assert_allclose(after.obs[4:], [0.5, -1.0, after.reward])
    np.testing.assert_array_equal(after.info["context"], state.obs[2:4])


def test_every_episode_in_brax_has_contexts_of_its_own():
    """By brax's own wrappers, which begin each of them in the same state."""
    env = wrappers.wrap(BraxEnv("point_robot", labels=True, horizon=5, p=0.2), episode_length=5)
    state = jax.jit(env.reset)(jax.random.split(jax.random.PRNGKey(0), 64))
    start = state.obs

    def step(state, _):
        state = env.step(state, jnp.ones((64, 2)))
        return state, (state.done, state.info["context"], state.obs)

    _, (done, contexts, observations) = jax.jit(lambda state: jax.lax.scan(step, state, length=40))(state)
    np.testing.assert_array_equal(done, np.arange(1, 41)[:, None] % 5 == 0 * np.ones(64))
    np.testing.assert_array_equal(observations[4], start)
    first = np.asarray(contexts[::5])  # of the first steps, switches among them
    assert all(len(np.unique(first[:, n], axis=0)) > 2 for n in range(64))
    episodes = contexts.reshape(8, 5, 64, 2)
    kept = (np.diff(episodes, axis=1) == 0).all(-1).mean()
    assert 0.75 < kept < 0.9  # within an episode a context is kept with probability 0.8, or drawn again


@pytest.mark.skipif(jax.__version_info__ >= (0, 12), reason="brax 0.14 calls what JAX 0.12 no longer has")
def test_brax_trains_on_one_of_ours(capsys):
    exec(PPO, {})
    assert -100.0 < float(capsys.readouterr().out) < 0.0


@pytest.mark.parametrize("env, backend", [("point_robot", "none"), ("reacher", "c"), ("ant_dir", "spring")])
def test_brax_is_told_what_computes_physics(env, backend):
    assert BraxEnv(env).backend == backend


def test_discrete_actions_are_refused():
    with pytest.raises(UserError, match="env is Gridworld, whose actions are discrete; those of brax are continuous"):
        BraxEnv("gridworld")
