"""The benchmark: what it counts, and that it measures a real run of every method."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from conftest import tiny_config
from dynamite_envs import registry
from dynamite_envs.physics.backend import Motion, MuJoCoDLCMDP
from dynamite_jax.methods import METHODS
from dynamite_jax.runtime import speed


def test_matrix_products_are_counted_as_often_as_they_run():
    weights, x = jnp.ones((5, 7)), jnp.ones((3, 5))

    def program(x):

        def step(carry, _):
            return (jax.jit(jnp.tanh)(carry @ weights) @ weights.T, None)

        return jax.lax.scan(step, x, length=11)[0] @ weights

    assert speed._matrix_flops(jax.make_jaxpr(program)(x).jaxpr) == 2 * 3 * 5 * 7 * (2 * 11 + 1)
    # A batched product does one for each of the batch.
    batched = jax.make_jaxpr(jax.vmap(lambda x: x @ weights))(jnp.ones((4, 3, 5))).jaxpr
    assert speed._matrix_flops(batched) == 4 * 2 * 3 * 35


def test_c_mujoco_is_given_the_episodes_of_the_policy(monkeypatch):
    """Every environment of every seed from its own start, each of its actions for all substeps."""
    env = registry.make("reacher", horizon=3)
    assert isinstance(env, MuJoCoDLCMDP)
    rng, calls = np.random.default_rng(0), []
    qpos, qvel, actions = rng.normal(size=(2, 5, 2)), rng.normal(size=(2, 5, 2)), rng.normal(size=(2, 3, 5, 2))
    monkeypatch.setattr(speed.c_rollout, "rollout", lambda *inputs, **_: calls.append(inputs))
    physics = Motion(*map(jnp.asarray, (qpos, qvel, 0.0 * qvel)))
    assert speed._c_mujoco(env, physics, jnp.asarray(actions), repeats=1) > 0
    model, _, starts, control = calls[-1]
    assert model is env.simulator.model and len(calls) == 2 and control.dtype == np.float64
    for seed in range(2):
        for n in range(5):
            np.testing.assert_allclose(starts[5 * seed + n], [0, *qpos[seed, n], *qvel[seed, n]], rtol=1e-6)
            expected = [actions[seed, t, n] for t in range(3) for _ in range(env.simulator.substeps)]
            np.testing.assert_allclose(control[5 * seed + n], expected, rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("env, method", [("reacher", "dynamite"), *(("probe_match", method) for method in METHODS)])
def test_every_method_can_be_measured(env, method):
    result = speed.measure(tiny_config(env, method, steps=3200), repeats=1)
    assert (result.get("c_mujoco_steps_per_s", 0) > 0) == (env == "reacher")
    assert result["steps_per_s"] > 0 and result["compile_s"] > 0 and result["peak_mb"] > 0
    assert {"environment", "encoder and policy", "ppo update"} <= result["phases"].keys()
    assert sum(phase["flops"] for phase in result["phases"].values()) == result["floor"]["flops_per_step"]
    assert result["floor"]["floor_steps_per_s"] > result["steps_per_s"]
