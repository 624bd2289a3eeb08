"""How fast training is, where the time goes, and how far that is from the arithmetic floor.

python -m experiments.bench --env gridworld
"""

import dataclasses
import json
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.table import Table

from dynamite_jax import config as configs
from dynamite_jax import metrics, parallel, presets, train_step
from dynamite_jax.config import Config
from dynamite_jax.errors import one_line_errors, parse
from dynamite_jax.rollout import play
from dynamite_jax.types import TrainState
from envs import registry


@dataclass(frozen=True)
class Arguments:
    """Measure complete training (rollout, belief and policy updates) with the very preset that `train` uses."""

    env: str = "gridworld"
    """Environment."""
    method: str = "dynamite"
    """Method."""
    seeds: int = 4
    """Agents trained side by side; steps are counted over all of them."""
    num_envs: tuple[int, ...] = ()
    """Environments of each agent, one row for each number; by default the preset's."""
    repeats: int = 5
    """Timed chunks; medians are reported."""
    json: bool = False
    """Print one JSON line for each number of environments instead of tables."""


def measure(config: Config, repeats: int) -> metrics.Record:
    """Speed, compile time, memory and phases of one configuration.

    Args:
        config: the run; only its sizes matter.
        repeats: timed executions, after one that is not timed.

    Returns:
        `steps_per_s` and its quartiles, `compile_s` with an empty cache and `warm_compile_s` with a full one,
        `peak_mb`, `phases` in microseconds a step, and `floor`.
    """
    configs.check(config)
    env = registry.make(config.env, **configs.env_options(config))
    with tempfile.TemporaryDirectory() as cache:
        jax.config.update("jax_compilation_cache_dir", cache)
        program = parallel.Program(config, env)
        states = program.init()
        program.compile(states)
        compile_s = program.compile_s
        jax.clear_caches()
        program = parallel.Program(config, env)
        step = program.compile(states)
        warm_compile_s = program.compile_s

        states, _ = jax.block_until_ready(step(states))
        seconds = []
        for _ in range(repeats):
            start = time.perf_counter()
            states, _ = jax.block_until_ready(step(states))
            seconds.append(time.perf_counter() - start)
        peak_mb = parallel.peak_mb()
        steps = program.steps_per_chunk * config.seeds
        phases = _phases(program, states, repeats)
    rates = steps / np.array(seconds)
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
        "floor": _floor(program, states, float(np.median(rates))),
        "machine": parallel.machine(),
    }


def _phases(program: parallel.Program, states: TrainState, repeats: int) -> dict[str, float]:
    """Microseconds per environment step (of all seeds together) of each phase compiled alone.

    `encoder` is the difference between acting with the belief and acting at random, so it holds the policy too.
    """
    config, env, agent = program.config, program.env, program.agent
    vae, ppo = program.hyper
    key = jax.random.key(0)

    def environment(state: TrainState) -> Any:
        def step(environment: Any, _: None) -> tuple[Any, None]:
            action = jnp.broadcast_to(env.action_space.zeros(()), env.action_space.zeros((config.num_envs,)).shape)
            return jax.vmap(env.step)(environment, action), None

        return jax.lax.scan(step, state.environment, length=env.horizon)[0]

    def rollout(state: TrainState) -> Any:
        return play(agent, env, state.acting, state.environment, state.belief, key)[0]

    played, rollout_s = _time(program.over_seeds(rollout), repeats, states)
    environment_s = _time(program.over_seeds(environment), repeats, states)[1]
    seconds = {"environment": environment_s, "encoder and policy": max(0.0, rollout_s - environment_s)}
    if agent.belief.learns:
        update = lambda state, played: train_step.update_belief(config, agent, env, played, vae, state, key)  # noqa: E731
        seconds["vae update"] = _time(program.over_seeds(update), repeats, states, played)[1]
    update = lambda state, played: train_step.update_policy(config, agent, env, played, ppo, state, key)  # noqa: E731
    seconds["ppo update"] = _time(program.over_seeds(update), repeats, states, played)[1]
    steps = config.num_envs * env.horizon * config.seeds
    return {name: value / steps * 1e6 for name, value in seconds.items()}


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


def _floor(program: parallel.Program, states: TrainState, rate: float) -> metrics.Record:
    """Matrix products that a step of training needs, over the rate at which this machine does them.

    A dense layer of n weights takes 2 n operations forward and 4 n more backward. Counted are the dense layers
    alone, so no program of this method can be faster than the floor on this machine.
    """
    config, env = program.config, program.env
    count = partial(_weights, seeds=config.seeds)
    flops: dict[str, float] = {}
    actor_critic = count(states.policy_params)
    flops["acting"] = 2.0 * actor_critic
    if program.agent.belief.learns:
        vae, networks = config.vae, states.belief_params["params"]
        encoder = count(networks["encoder"])
        decoders = sum(count(networks[name]) for name in networks if name.endswith("_decoder"))
        share = vae.epochs * (vae.trajectories or config.num_envs) / config.num_envs
        decodes = (vae.elbo_terms or env.horizon) / env.horizon * (vae.decode_terms or env.horizon)
        flops["acting"] += 2.0 * encoder
        flops["vae update"] = 6.0 * share * (encoder + decodes * decoders)
    flops["ppo update"] = 6.0 * config.ppo.epochs * actor_critic
    products = _matrix_rate()
    floor = products / sum(flops.values())
    return {
        "flops_per_step": flops,
        "matrix_gflops": products / 1e9,
        "floor_steps_per_s": floor,
        "fraction_of_floor": rate / floor,
    }


def _weights(params: Any, seeds: int) -> int:
    """Weights of the dense layers of one seed."""
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return sum(leaf.size for path, leaf in leaves if jax.tree_util.keystr(path).endswith("['kernel']")) // seeds


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


def _report(result: metrics.Record) -> None:
    console = Console()
    low, high = result["steps_per_s_quartiles"]
    table = Table(title="{env}, {method}, {seeds} seeds x {num_envs} environments".format(**result), show_header=False)
    table.add_row("training, environment steps/s", f"{result['steps_per_s']:,.0f} (quartiles {low:,.0f} - {high:,.0f})")
    table.add_row("compile, cold / warm", f"{result['compile_s']:.1f} s / {result['warm_compile_s']:.1f} s")
    table.add_row("peak memory", f"{result['peak_mb']:,.0f} MB")
    for name, value in result["phases"].items():
        share = value / sum(result["phases"].values())
        table.add_row(f"{name}, us a step", f"{value:.2f} ({share:.0%})")
    floor = result["floor"]
    needed = sum(floor["flops_per_step"].values())
    table.add_row("arithmetic", f"{needed / 1e3:.0f} kFLOP a step; {floor['matrix_gflops']:.0f} GFLOP/s measured")
    table.add_row("floor", f"{floor['floor_steps_per_s']:,.0f} steps/s; reached {floor['fraction_of_floor']:.0%}")
    console.print(table)


@one_line_errors
def main() -> None:
    """Measure and print."""
    arguments = parse(Arguments, sys.argv[1:], prog="python -m experiments.bench")
    if arguments.repeats < 1:
        raise ValueError(f"repeats is {arguments.repeats}; it must be 1 or more")
    preset = presets.default(arguments.env, arguments.method)
    parallel.prepare(arguments.seeds)
    for num_envs in arguments.num_envs or (preset.num_envs,):
        config = dataclasses.replace(preset, seeds=arguments.seeds, num_envs=num_envs)
        result = measure(config, arguments.repeats)
        if arguments.json:
            print(json.dumps(result), flush=True)
        else:
            _report(result)


if __name__ == "__main__":
    main()
