"""The compiled chunk: one compilation, no host, no meeting of seeds, states that can be donated and restored."""

import dataclasses
import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from conftest import assert_same, build, compiled, tiny_config
from dynamite_jax.methods import of_setting
from dynamite_jax.runtime.program import chunk


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
    text = compiled(tiny).args[0].as_text()  # of the executable
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


@pytest.mark.parametrize("method", of_setting("online"))
def test_no_array_of_the_state_is_empty(method):
    """An array of size 0 comes back with another sharding, which the compiled chunk then refuses."""
    _, states = build(tiny_config("gridworld", method))
    assert all(leaf.size for leaf in jax.tree.leaves(states))


@pytest.mark.parametrize("method", of_setting("online"))
def test_no_number_of_a_fresh_state_is_weakly_typed(method):
    """A restored state never is, so that the chunk would be compiled again for it."""
    _, states = build(tiny_config("gridworld", method))
    weak = [jax.tree_util.keystr(p) for p, x in jax.tree_util.tree_leaves_with_path(states) if x.aval.weak_type]
    assert weak == []


def test_seeds_differ_and_the_root_seed_changes_all(tiny):
    keys = [np.asarray(jax.random.key_data(build(dataclasses.replace(tiny, seed=s))[1].key)) for s in (0, 1)]
    assert len({tuple(row) for key in keys for row in key}) == 4
