"""The benchmark: what it counts, and that it measures a real run of every method."""

from typing import Any

import jax
import jax.numpy as jnp
import mujoco as untyped
import numpy as np
import pytest

from conftest import tiny_config
from dynamite_envs import registry
from dynamite_envs.errors import UserError
from dynamite_envs.physics.backend import Motion, MuJoCoDLCMDP
from dynamite_jax.methods import METHODS
from dynamite_jax.runtime import devices, physics_speed, speed
from dynamite_jax.runtime.physics_speed import Episodes
from dynamite_jax.runtime.program import Program

mujoco: Any = untyped


def test_matrix_products_are_counted_as_often_as_they_run():
    weights, x = jnp.ones((5, 7)), jnp.ones((3, 5))

    def program(x):

        def step(carry, _):
            return (jax.jit(jnp.tanh)(carry @ weights) @ weights.T, None)

        return jax.lax.scan(step, x, length=11)[0] @ weights

    assert speed.matrix_flops(jax.make_jaxpr(program)(x).jaxpr) == 2 * 3 * 5 * 7 * (2 * 11 + 1)
    # A batched product does one for each of the batch.
    batched = jax.make_jaxpr(jax.vmap(lambda x: x @ weights))(jnp.ones((4, 3, 5))).jaxpr
    assert speed.matrix_flops(batched) == 4 * 2 * 3 * 35


def test_physics_is_compared_on_the_same_episodes():
    """Every environment of every seed from its own start, each of its actions for all substeps, by all three ways."""
    config = tiny_config("reacher", env_options={"horizon": 3})
    env = registry.make("reacher", horizon=3)
    assert isinstance(env, MuJoCoDLCMDP)
    program, rng = Program(config, env), np.random.default_rng(0)
    sizes = ((2, 5, 2), (2, 5, 2), (2, 3, 5, 2))
    qpos, qvel, control = (rng.normal(size=size).astype(np.float32) for size in sizes)
    episodes = Episodes(env.simulator, Motion(*map(jnp.asarray, (qpos, qvel, 0.0 * qvel))), jnp.asarray(control))
    runs = [physics_speed._compiled(program, episodes, impl) for impl in ("c", "jax")]
    ends = [run().qpos for run in runs if run]
    states, _ = physics_speed._rollout(episodes)()
    ends.append(states[:, -1, 1:3].reshape(2, 5, 2))
    data = mujoco.MjData(env.simulator.model)
    for seed in range(2):
        for n in range(5):
            mujoco.mj_resetData(env.simulator.model, data)
            data.qpos[:], data.qvel[:] = qpos[seed, n], qvel[seed, n]
            for step in range(3):
                data.ctrl[:] = control[seed, step, n]
                for _ in range(env.simulator.substeps):
                    mujoco.mj_step(env.simulator.model, data)
            assert len(ends) == 3
            for end in ends:
                np.testing.assert_allclose(end[seed, n], data.qpos, atol=1e-5)
    rates = physics_speed.measure(program, episodes, repeats=1)
    assert list(rates) == ["jax", "c", "c_mujoco"] and all(rate and rate > 0 for rate in rates.values())


def test_a_way_that_can_not_be_had_is_left_out(monkeypatch):
    monkeypatch.setattr(devices, "unusable_here", lambda mjx: "it hangs" if mjx else None)
    monkeypatch.setattr(physics_speed, "check_implementation", check_all_but_c)
    env = registry.make("reacher", horizon=3)
    assert isinstance(env, MuJoCoDLCMDP)
    start = Motion(*(jnp.zeros((2, 5, 2)) for _ in range(3)))
    episodes = Episodes(env.simulator, start, jnp.zeros((2, 3, 5, 2)))
    rates = physics_speed.measure(Program(tiny_config("reacher"), env), episodes, repeats=1)
    assert rates["jax"] is rates["c"] is None and rates["c_mujoco"]


def check_all_but_c(impl: str) -> None:
    if impl == "c":
        raise UserError("impl is 'c'; it can't be called here")


def test_methods_are_timed_in_turn(monkeypatch):
    """Each chunk takes its method's time, twice as long in the round that is not counted."""
    clock, order, rounds = [0.0], [], {}

    class Program:
        steps_per_chunk = 50

        def __init__(self, config, env):
            self.method = config.method

        def init(self):
            return jnp.zeros(())

        def compile(self, states):
            def step(states):
                order.append(self.method)
                rounds[self.method] = rounds.get(self.method, 0) + 1
                seconds = {"rl2": 1.0, "markov": 4.0}[self.method]
                clock[0] += seconds * (2.0 if rounds[self.method] == 1 else 1.0)
                return states, {}

            return step

    monkeypatch.setattr(speed, "Program", Program)
    monkeypatch.setattr(speed.time, "perf_counter", lambda: clock[0])
    result = speed.compare({name: tiny_config("probe_match", name) for name in ("rl2", "markov")}, repeats=3)
    assert order == ["rl2", "markov"] * 4
    rates = {name: rate["all"] for name, rate in result["steps_per_s"].items()}  # of both seeds
    assert rates == {"rl2": [100.0] * 3, "markov": [25.0] * 3}
    assert result["steps_per_s"]["markov"]["median"] == 25.0 and result["configs"]["rl2"]["method"] == "rl2"


@pytest.mark.slow
@pytest.mark.parametrize("env, method", [("reacher", "dynamite"), *(("probe_match", method) for method in METHODS)])
def test_every_method_can_be_measured(env, method):
    result = speed.measure(tiny_config(env, method, steps=3200), repeats=1)
    assert ("physics" in result) == (env == "reacher")
    assert result["steps_per_s"] > 0 and result["compile_s"] > 0 and result["peak_mb"] > 0
    assert {"environment", "encoder and policy", "ppo update"} <= result["phases"].keys()
    assert sum(phase["flops"] for phase in result["phases"].values()) == result["floor"]["flops_per_step"]
    assert result["floor"]["floor_steps_per_s"] > result["steps_per_s"]
