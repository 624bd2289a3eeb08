"""How fast physics alone is: by MJX, by C MuJoCo inside a compiled program, and by `mujoco.rollout`."""

import copy
import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
from mujoco import rollout as c_rollout

from dynamite_envs.errors import UserError
from dynamite_envs.physics.backend import Motion, Simulator, check_implementation
from dynamite_jax.runtime import devices
from dynamite_jax.runtime.program import Program

MAX_ENVIRONMENTS = 1024  # in `mujoco.rollout`, which keeps every state of them in memory


@dataclass(frozen=True)
class Episodes:
    """What is stepped.

    Attributes:
        simulator: of the model.
        start: first states, leaves [seeds, E, ...].
        control: of every step, [seeds, H, E, nu].
    """

    simulator: Simulator
    start: Motion
    control: jax.Array


def measure(program: Program, episodes: Episodes, repeats: int) -> dict[str, float | None]:
    """Environment steps per second over all seeds, without rewards, contexts and observations.

    Args:
        program: lays the seeds out over the devices.
        episodes: all ways step the same.
        repeats: timed executions of each way, in turn; the median counts.

    Returns:
        `jax`, `c` and `c_mujoco`, which is `mujoco.rollout` on all cores; None of a way that can't be had here.
    """
    ways: dict[str, Callable[[], Any] | None] = {impl: _compiled(program, episodes, impl) for impl in ("jax", "c")}
    ways["c_mujoco"] = _rollout(episodes)
    seeds, steps, environments = episodes.control.shape[:3]
    counts = dict.fromkeys(ways, seeds * environments * steps)
    counts["c_mujoco"] = min(seeds * environments, MAX_ENVIRONMENTS) * steps
    seconds: dict[str, list[float]] = {way: [] for way, run in ways.items() if run}
    for _ in range(repeats + 1):  # the first one starts threads
        for way in seconds:
            start = time.perf_counter()
            jax.block_until_ready(ways[way]())  # pyright: ignore[reportOptionalCall]
            seconds[way].append(time.perf_counter() - start)
    c_rollout.shutdown_persistent_pool()
    return {way: counts[way] / float(np.median(seconds[way][1:])) if way in seconds else None for way in ways}


def _compiled(program: Program, episodes: Episodes, impl: str) -> Callable[[], Any] | None:
    """Steps all episodes by a backend, None where it can't be had here."""
    try:
        check_implementation(impl)
    except UserError:
        return None
    if devices.unusable_here(mjx=impl == "jax"):
        return None
    simulator = dataclasses.replace(episodes.simulator, impl=impl)
    applied = jnp.zeros(simulator.model.nv)

    def roll(motion: Motion, control: jax.Array) -> Motion:
        def step(motion: Motion, control: jax.Array) -> tuple[Motion, None]:
            return jax.vmap(simulator.advance, (0, 0, None))(motion, control, applied), None

        return jax.lax.scan(step, motion, control)[0]

    start = Motion(episodes.start.qpos, episodes.start.qvel, episodes.start.warmstart)
    lowered = jax.jit(program.over_seeds(roll)).lower(start, episodes.control)
    executable = lowered.compile(devices.compiler_options())
    return lambda: executable(start, episodes.control)


def _rollout(episodes: Episodes) -> Callable[[], Any]:
    """Steps the first `MAX_ENVIRONMENTS` episodes on all cores."""
    model = episodes.simulator.model
    _, steps, _, size = episodes.control.shape
    qpos, qvel = (np.asarray(x).reshape(-1, x.shape[-1]) for x in (episodes.start.qpos, episodes.start.qvel))
    starts = np.concatenate([np.zeros((len(qpos), 1)), qpos, qvel], axis=1)[:MAX_ENVIRONMENTS]  # first comes the time
    control = np.swapaxes(np.asarray(episodes.control, np.float64), 1, 2).reshape(-1, steps, size)[:MAX_ENVIRONMENTS]
    control = np.repeat(control, episodes.simulator.substeps, axis=1)
    data = mujoco.MjData(model)  # pyright: ignore[reportAttributeAccessIssue]
    threads = [copy.copy(data) for _ in range(devices.cores())]
    return lambda: c_rollout.rollout(model, threads, starts, control, persistent_pool=True)
