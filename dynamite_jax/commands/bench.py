"""How fast training is, where the time goes, and how far that is from the arithmetic floor.

python -m dynamite_jax.commands.bench --env gridworld
"""

import copy
import dataclasses
import json
import math
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
from mujoco import rollout as c_rollout
from rich.console import Console
from rich.table import Table

from dynamite_envs import registry
from dynamite_envs.errors import UserError
from dynamite_envs.physics.backend import Motion, MuJoCoDLCMDP
from dynamite_jax import config as configs
from dynamite_jax import presets
from dynamite_jax.algorithms import meta_ppo as train_step
from dynamite_jax.config import Config
from dynamite_jax.data.rollout import play
from dynamite_jax.data.types import TrainState
from dynamite_jax.errors import one_line_errors, parse
from dynamite_jax.runtime import devices, loggers
from dynamite_jax.runtime.program import Program

AT_MOST = 1024  # environments in C MuJoCo


@dataclass(frozen=True)
class Arguments:
    """Measure complete training (rollout, belief and policy updates) with the very preset that `train` uses."""

    env: str = "gridworld"
    """Environment."""
    method: str = "dynamite"
    """Method."""
    scale: presets.Scale = "cores"
    """What the preset is sized for: a few cores, or a GPU or TPU."""
    seeds: int = 4
    """Agents trained side by side; steps are counted over all of them."""
    num_envs: tuple[int, ...] = ()
    """Environments of each agent, one row for each number; by default the preset's."""
    repeats: int = 5
    """Timed chunks; medians are reported."""
    json: bool = False
    """Print one JSON line for each number of environments instead of tables."""


def measure(config: Config, repeats: int) -> loggers.Record:
    """Speed, compile time, memory and phases of one configuration.

    Args:
        config: the run; only its sizes matter.
        repeats: timed executions, after one that is not timed.

    Returns:
        `steps_per_s` and its quartiles, `compile_s` with an empty cache and `warm_compile_s` with a full one,
        `peak_mb`, `phases` with the microseconds and the matrix products of a step, `overhead`, the time of training
        over that of the environment alone, less 1, and `floor`; in environments with physics `c_mujoco_steps_per_s`,
        the speed of C MuJoCo on all cores.
    """
    env = configs.validate(config)
    with tempfile.TemporaryDirectory() as cache:
        jax.config.update("jax_compilation_cache_dir", cache)
        program = Program(config, env)
        states = program.init()
        program.compile(states)
        compile_s = program.compile_s
        jax.clear_caches()
        program = Program(config, env)
        step = program.compile(states)
        warm_compile_s = program.compile_s

        states, _ = jax.block_until_ready(step(states))
        seconds = []
        for _ in range(repeats):
            start = time.perf_counter()
            states, _ = jax.block_until_ready(step(states))
            seconds.append(time.perf_counter() - start)
        peak_mb = devices.peak_mb()
        steps = program.steps_per_chunk * config.seeds
        phases, actions = _phases(program, states, repeats)
    rates = steps / np.array(seconds)
    compared = {}
    if isinstance(env, MuJoCoDLCMDP):
        compared["c_mujoco_steps_per_s"] = _c_mujoco(env, states.environment.physics, actions, repeats)
    return {
        "env": config.env,
        "method": config.method,
        "seeds": config.seeds,
        "num_envs": config.num_envs,
        "steps_per_s": float(np.median(rates)),
        "steps_per_s_quartiles": [float(q) for q in np.quantile(rates, [0.25, 0.75])],
        "compile_s": compile_s,
        "warm_compile_s": warm_compile_s,
        "peak_mb": peak_mb,
        "phases": phases,
        "overhead": 1e6 / float(np.median(rates)) / phases["environment"]["us"] - 1.0,
        **compared,
        "floor": _floor(phases, float(np.median(rates))),
        "machine": devices.machine(),
    }


def _phases(program: Program, states: TrainState, repeats: int) -> tuple[dict[str, dict[str, float]], jax.Array]:
    """Each phase compiled alone: `us`, microseconds, and `flops`, matrix products, of one environment step.

    Steps are counted over all seeds. `encoder and policy` is what acting takes beyond stepping the environments
    through the same actions, which are returned too, [seeds, H, E, ...].
    """
    config, env, agent = program.config, program.env, program.agent
    vae, ppo = program.hyper
    key = jax.random.key(0)

    def rollout(state: TrainState) -> Any:
        return play(agent, env, state.agent_params, state.environment, state.belief, key)[0]

    def environment(state: TrainState, played: Any) -> Any:
        step = lambda environment, action: (jax.vmap(env.step)(environment, action), None)  # noqa: E731
        return jax.lax.scan(step, state.environment, played.action)[0]

    def belief(state: TrainState, played: Any) -> Any:
        return train_step.update_belief(config, agent, env, played, vae, state, key)

    def policy(state: TrainState, played: Any) -> Any:
        samples, _ = train_step.policy_samples(agent, played, ppo, state)
        return train_step.update_policy(config, agent, env, played, samples, ppo, state, key)

    steps = config.num_envs * env.horizon * config.seeds

    def measured(function: Callable, *arguments: Any) -> tuple[Any, dict[str, float]]:
        result, seconds = _time(program.over_seeds(function), repeats, *arguments)
        flops = _products(jax.make_jaxpr(jax.vmap(function))(*arguments).jaxpr)
        return result, {"us": seconds / steps * 1e6, "flops": flops / steps}

    played, acting = measured(rollout, states)
    phases = {"environment": measured(environment, states, played)[1]}
    phases["encoder and policy"] = {
        name: max(0.0, value - phases["environment"][name]) for name, value in acting.items()
    }
    phases["environment"]["flops"] = 0.0  # of networks alone: what physics needs depends on its contacts
    if agent.belief.learns:
        phases["vae update"] = measured(belief, states, played)[1]
    phases["ppo update"] = measured(policy, states, played)[1]
    return phases, played.action


def _c_mujoco(env: MuJoCoDLCMDP, physics: Motion, actions: jax.Array, repeats: int) -> float:
    """Environment steps per second of C MuJoCo on all cores, without rewards, contexts and observations.

    The first `AT_MOST` environments are stepped, since it keeps every state of them.

    Args:
        env: whose model is stepped.
        physics: where episodes start, leaves [seeds, E, ...].
        actions: what is done in them, [seeds, H, E, A].
        repeats: timed executions.
    """
    model, substeps = env.simulator.model, env.simulator.substeps
    data = mujoco.MjData(model)  # pyright: ignore[reportAttributeAccessIssue]
    qpos, qvel = (np.asarray(x).reshape(-1, x.shape[-1]) for x in (physics.qpos, physics.qvel))
    starts = np.concatenate([np.zeros((len(qpos), 1)), qpos, qvel], axis=1)  # the time comes first
    control = np.swapaxes(np.asarray(actions, np.float64), 1, 2).reshape(len(qpos), env.horizon, model.nu)
    starts, control = starts[:AT_MOST], np.repeat(control[:AT_MOST], substeps, axis=1)  # which the model clips
    threads = [copy.copy(data) for _ in range(devices.cores())]
    seconds = []
    for _ in range(repeats + 1):  # the first one starts the threads
        start = time.perf_counter()
        c_rollout.rollout(model, threads, starts, control, persistent_pool=True)
        seconds.append(time.perf_counter() - start)
    c_rollout.shutdown_persistent_pool()
    return len(starts) * env.horizon / float(np.median(seconds[1:]))


def _time(function: Callable, repeats: int, *arguments: Any) -> tuple[Any, float]:
    """Result of a jitted function, and the median seconds of running it."""
    compiled = jax.jit(function).lower(*arguments).compile()
    result = jax.block_until_ready(compiled(*arguments))
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(compiled(*arguments))
        seconds.append(time.perf_counter() - start)
    return result, float(np.median(seconds))


def _floor(phases: dict[str, dict[str, float]], rate: float) -> loggers.Record:
    """The rate at which this machine does matrix products, over the products that a step of training needs.

    Counted are the products of networks alone, so no program of this method can be faster than the floor here.
    """
    products = _matrix_rate()
    flops = sum(phase["flops"] for phase in phases.values())
    floor = products / flops
    return {
        "flops_per_step": flops,
        "matrix_gflops": products / 1e9,
        "floor_steps_per_s": floor,
        "fraction_of_floor": rate / floor,
    }


def _products(jaxpr: Any) -> float:
    """Floating-point operations of all matrix products of a program, those of a loop as often as it runs."""
    total = 0.0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            shape = equation.invars[0].aval.shape
            total += 2.0 * equation.outvars[0].aval.size * math.prod(shape[axis] for axis in contracted)
        times = equation.params["length"] if equation.primitive.name == "scan" else 1
        inner = jax.tree.leaves(list(equation.params.values()), is_leaf=lambda x: hasattr(x, "eqns"))
        total += times * sum(_products(getattr(x, "jaxpr", x)) for x in inner if hasattr(x, "eqns"))
    return total


def _matrix_rate(size: int = 2048) -> float:
    """Floating-point operations per second of one large float32 matrix product, best of five."""
    product = jax.jit(lambda a, b: a @ b)
    a = jnp.ones((size, size))
    jax.block_until_ready(product(a, a))
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        jax.block_until_ready(product(a, a))
        seconds.append(time.perf_counter() - start)
    return 2.0 * size**3 / min(seconds)


def _report(result: loggers.Record) -> None:
    console = Console()
    low, high = result["steps_per_s_quartiles"]
    table = Table(title="{env}, {method}, {seeds} seeds x {num_envs} environments".format(**result), show_header=False)
    table.add_row("training, environment steps/s", f"{result['steps_per_s']:,.0f} (quartiles {low:,.0f} - {high:,.0f})")
    table.add_row("compile, cold / warm", f"{result['compile_s']:.1f} s / {result['warm_compile_s']:.1f} s")
    if result["peak_mb"] is not None:
        table.add_row("peak memory", f"{result['peak_mb']:,.0f} MB")
    whole = sum(phase["us"] for phase in result["phases"].values())
    for name, phase in result["phases"].items():
        said = f"{phase['us']:.2f} ({phase['us'] / whole:.0%}), {phase['flops'] / 1e3:.0f} kFLOP"
        table.add_row(f"{name}, us a step", said)
    alone, acting = result["phases"]["environment"]["us"], result["phases"]["encoder and policy"]["us"]
    table.add_row("environment alone, steps/s", f"{1e6 / alone:,.0f}")
    table.add_row("acting and learning add to that", f"{result['overhead']:.0%}")
    table.add_row("environment, belief and policy, steps/s", f"{1e6 / (alone + acting):,.0f}")
    if "c_mujoco_steps_per_s" in result:
        table.add_row("C MuJoCo on all cores, steps/s", f"{result['c_mujoco_steps_per_s']:,.0f}")
    floor = result["floor"]
    needed, rate = floor["flops_per_step"] / 1e3, floor["matrix_gflops"]
    table.add_row("arithmetic", f"{needed:.0f} kFLOP a step; {rate:.0f} GFLOP/s measured")
    table.add_row("floor", f"{floor['floor_steps_per_s']:,.0f} steps/s; reached {floor['fraction_of_floor']:.0%}")
    console.print(table)


@one_line_errors
def main() -> None:
    """Measure and print."""
    arguments = parse(Arguments, sys.argv[1:], prog="python -m dynamite_jax.commands.bench")
    if arguments.repeats < 1:
        raise UserError(f"repeats is {arguments.repeats}; it must be 1 or more")
    preset = presets.default(arguments.env, arguments.method, arguments.scale)
    devices.setup(arguments.seeds)
    horizon = registry.make(arguments.env).horizon
    for num_envs in arguments.num_envs or (preset.num_envs,):
        steps = max(preset.steps, num_envs * horizon)
        config = dataclasses.replace(preset, seeds=arguments.seeds, num_envs=num_envs, steps=steps)
        result = measure(config, arguments.repeats)
        if arguments.json:
            print(json.dumps(result), flush=True)
        else:
            _report(result)


if __name__ == "__main__":
    main()
