"""What is not finite in a meta-update: which quantity is named, and what is left where such an update is left out."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from conftest import assert_same, build, tiny_config
from dynamite_jax.algorithms.faults import QUANTITIES, Faults


@pytest.mark.parametrize("learner", ["belief model", "policy"])
def test_weights_that_are_not_finite_are_noted_though_every_loss_was(learner):
    """Of the second seed. One minibatch each: its loss is of the weights before."""
    config = tiny_config("probe_match", vae={"minibatches": 1}, ppo={"minibatches": 1, "epochs": 1})
    program, states = build(config)
    vae, ppo = jax.tree.map(lambda x: jnp.full(config.seeds, x), program.algorithm.hyper)
    endless = jnp.array([1e-3, np.inf])
    hyper = (vae.replace(lr=endless), ppo) if learner == "belief model" else (vae, ppo.replace(lr=endless))
    states, _ = program.compile(states, hyper)(states)
    faults = jax.device_get(states.faults)
    assert faults.count.tolist() == [0, 2] and faults.update.tolist() == [0, 0]
    assert QUANTITIES[faults.quantity[1]] == learner


def test_faults_hold_the_first_quantity_of_the_first_update_that_has_one():
    def look(faults, update, *bad):
        quantities = [{"x": jnp.array([1.0, np.nan if i in bad else 2.0])} for i in range(len(QUANTITIES))]
        finite, faults = faults.after(update, [*quantities[:-1], (quantities[-1], jnp.arange(3), {})])
        assert bool(finite) == (not bad)
        return faults, tuple(int(x) for x in (faults.count, faults.update, faults.quantity))

    faults, seen = look(Faults.none(), 0)
    assert seen == (0, 0, 0)
    faults, seen = look(faults, 3, 4, 5)
    assert seen == (1, 3, 4)
    faults, seen = look(faults, 4)
    assert seen == (1, 3, 4)
    faults, seen = look(faults, 5, 0, 1)
    assert seen == (2, 3, 4)


@pytest.mark.parametrize("method", ["dynamite", "secbad", "rl2"])
def test_a_meta_update_that_is_left_out_changes_nothing_that_learns(method):
    """Its weights are put back, its episodes and its random numbers are gone, and learning goes on."""
    config = tiny_config("probe_match", method, chunk=1, vae={"minibatches": 1}, ppo={"minibatches": 1, "epochs": 1})
    config = dataclasses.replace(config, not_finite="skip")
    program, states = build(config)
    vae, ppo = jax.tree.map(lambda x: jnp.full(config.seeds, x), program.algorithm.hyper)
    good, bad = ppo.replace(lr=jnp.full(2, 1e-3)), ppo.replace(lr=jnp.full(2, np.inf))
    executable = program.lower(states, (vae, good)).compile()
    states, _ = executable(program.env, (vae, good), states)
    before = jax.device_get(states.replace(key=None))
    states, values = executable(program.env, (vae, bad), states)
    after = jax.device_get(states.replace(key=None))
    kept = ("environment", "meta_updates", "faults")
    for field in dataclasses.fields(after):
        if field.name not in kept:
            assert_same(getattr(after, field.name), getattr(before, field.name))
    assert after.meta_updates.tolist() == [2, 2] and after.faults.count.tolist() == [1, 1]
    values = jax.device_get(values)
    assert values.pop("left_out").tolist() == [1, 1] and all(np.isnan(value).all() for value in values.values())
    states, values = executable(program.env, (vae, good), states)
    assert all(np.isfinite(value).all() for value in jax.device_get(values).values())
    assert not np.array_equal(*[jax.tree.leaves(s.policy_params)[0] for s in (jax.device_get(states), before)])
