"""The host's loop, with a program that only waits."""

import time
from types import SimpleNamespace
from typing import Any

import jax.numpy as jnp
import numpy as np
from rich.console import Console

from conftest import tiny_config
from dynamite_jax.runtime import loggers, loop


def test_each_chunk_has_its_own_speed_also_where_beginning_one_waits_for_its_end():
    config = tiny_config("probe_match", checkpoint_every=3)
    states: Any = SimpleNamespace(faults=SimpleNamespace(count=np.zeros(2, int)))
    program: Any = SimpleNamespace(
        config=config,
        chunks=7,
        steps_per_chunk=100,
        algorithm=SimpleNamespace(warnings=lambda metrics: []),
        gather=lambda x: x,
    )

    metrics = {"return": jnp.zeros(2)}

    def step(states):
        time.sleep(0.1)
        return states, metrics

    log = loggers.Memory()
    loop.run(program, step, states, outputs=loop.Outputs(log, None, Console(quiet=True)), start=time.perf_counter())
    rates = [record["steps_per_s"] for record in log.records]
    assert len(rates) == 7 and max(rates[1:]) < 2 * min(rates[1:])  # the first one loads what the others use
    assert max(rates) <= 2 * 100 / 0.1
    assert all(
        later["wall_s"] - record["wall_s"] > 0.09 for record, later in zip(log.records, log.records[1:], strict=False)
    )
