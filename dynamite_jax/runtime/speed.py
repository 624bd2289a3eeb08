"""Speed of training: steps a second, the share of each phase, and the distance from the arithmetic floor."""

import math
import tempfile
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dynamite_envs.errors import UserError
from dynamite_envs.physics.backend import MuJoCoDLCMDP
from dynamite_jax import config as configs
from dynamite_jax.algorithms.meta_ppo import MetaPPO, TrainState
from dynamite_jax.config import Config
from dynamite_jax.data.rollout import play
from dynamite_jax.data.types import Array, Rollout
from dynamite_jax.runtime import devices, loggers, physics_speed, provenance
from dynamite_jax.runtime.physics_speed import Episodes
from dynamite_jax.runtime.program import Program


def measure(config: Config, repeats: int) -> loggers.Record:
    """Speed, compile time, memory and phases of one configuration.

    Args:
        config: the run.
        repeats: timed executions, after one that is not timed.

    Returns:
        `steps_per_s` and its quartiles, `compile_s` with an empty cache and `warm_compile_s` with a full one,
        `peak_mb`, `phases` with the microseconds and the matrix products of a step, `overhead`, the time of training
        over that of the environment alone, minus 1, and `floor`; in environments with physics `physics`, the
        speed of that alone by several ways, see `physics_speed`; `config`, `commit`, `versions` and `machine`.
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
    physics = {}
    if isinstance(env, MuJoCoDLCMDP):
        episodes = Episodes(env.simulator, states.environment.physics, actions)
        physics["physics"] = physics_speed.measure(program, episodes, repeats)
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
        **physics,
        "floor": _floor(phases, float(np.median(rates))),
        "config": configs.to_dict(config),
        "commit": provenance.commit(),
        "versions": provenance.versions(),
        "machine": devices.machine(),
    }


def compare(run_configs: Mapping[str, Config], repeats: int) -> loggers.Record:
    """Speed of complete training of several runs, chunk by chunk in turn in one process.

    Only such rates may be compared: what a machine gives changes from minute to minute.

    Args:
        run_configs: name of each run -> its config; all of one environment.
        repeats: timed chunks of each, after one that is not timed.

    Returns:
        `env`; `seeds`; `steps_per_s` over all seeds, by name: `median`, `all`; `configs`; `commit`, `versions` and
        `machine`.
    """
    steps, states, sizes = {}, {}, {}
    for name, config in run_configs.items():
        program = Program(config, configs.validate(config))
        states[name] = program.init()
        steps[name] = program.compile(states[name])
        sizes[name] = program.steps_per_chunk * config.seeds
    rates: dict[str, list[float]] = {name: [] for name in run_configs}
    for repeat in range(repeats + 1):
        for name, step in steps.items():
            start = time.perf_counter()
            states[name], _ = jax.block_until_ready(step(states[name]))
            if repeat:
                rates[name].append(sizes[name] / (time.perf_counter() - start))
    first = next(iter(run_configs.values()))
    return {
        "env": first.env,
        "seeds": first.seeds,
        "steps_per_s": {name: {"median": float(np.median(values)), "all": values} for name, values in rates.items()},
        "configs": {name: configs.to_dict(config) for name, config in run_configs.items()},
        "commit": provenance.commit(),
        "versions": provenance.versions(),
        "machine": devices.machine(),
    }


def _phases(program: Program, states: TrainState, repeats: int) -> tuple[dict[str, dict[str, float]], jax.Array]:
    """Each phase compiled alone: `us`, microseconds, and `flops`, matrix products, of one environment step.

    Steps are counted over all seeds. `encoder and policy` is the difference between a rollout and stepping the
    environments through the same actions, which are returned too, [seeds, H, E, ...].
    """
    config, env, agent, algorithm = program.config, program.env, program.agent, program.algorithm
    if not isinstance(algorithm, MetaPPO):
        raise UserError(f"method is {config.method!r}; only the phases of methods that learn by MetaPPO are timed")
    vae, ppo = algorithm.hyper
    key = jax.random.key(0)

    def collect(state: TrainState) -> Rollout:
        return play(agent, env, state.agent_params, state.environment, key)[0]

    def step_environments(state: TrainState, rollout: Rollout) -> Any:
        def step(environments: Any, action: Array) -> tuple[Any, None]:
            return jax.vmap(env.step)(environments, action), None

        return jax.lax.scan(step, state.environment, rollout.action)[0]

    def update_belief(state: TrainState, rollout: Rollout) -> Any:
        return algorithm.update_belief(env, rollout, vae, state, key)

    def update_policy(state: TrainState, rollout: Rollout) -> Any:
        rollout = algorithm.encoded_again(rollout, state)
        state, samples = algorithm.policy_samples(rollout, ppo, state)
        return algorithm.update_policy(env, rollout, samples, ppo, state, key)

    steps = config.num_envs * env.horizon * config.seeds

    def measure_phase(function: Callable, *arguments: Any) -> tuple[Any, dict[str, float]]:
        result, seconds = _time(program.over_seeds(function), repeats, *arguments)
        flops = matrix_flops(jax.make_jaxpr(jax.vmap(function))(*arguments).jaxpr)
        return result, {"us": seconds / steps * 1e6, "flops": flops / steps}

    rollout, collecting = measure_phase(collect, states)
    phases = {"environment": measure_phase(step_environments, states, rollout)[1]}
    phases["encoder and policy"] = {
        name: max(0.0, value - phases["environment"][name]) for name, value in collecting.items()
    }
    phases["environment"]["flops"] = 0.0  # of networks alone: those of physics depend on its contacts
    if agent.belief.learns:
        phases["vae update"] = measure_phase(update_belief, states, rollout)[1]
    phases["ppo update"] = measure_phase(update_policy, states, rollout)[1]
    return phases, rollout.action


def _time(function: Callable, repeats: int, *arguments: Any) -> tuple[Any, float]:
    """Result of a jitted function, and the median seconds of running it."""
    compiled = jax.jit(function).lower(*arguments).compile(devices.compiler_options())
    result = jax.block_until_ready(compiled(*arguments))
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(compiled(*arguments))
        seconds.append(time.perf_counter() - start)
    return result, float(np.median(seconds))


def _floor(phases: dict[str, dict[str, float]], rate: float) -> loggers.Record:
    """The rate at which this machine computes matrix products, over the products that a step of training needs.

    Only the products of networks are counted, so no program of this method can be faster than this floor.
    """
    rate_of_products = matrix_rate()
    flops = sum(phase["flops"] for phase in phases.values())
    floor = rate_of_products / flops
    return {
        "flops_per_step": flops,
        "matrix_gflops": rate_of_products / 1e9,
        "floor_steps_per_s": floor,
        "fraction_of_floor": rate / floor,
    }


def matrix_flops(jaxpr: Any) -> float:
    """Floating-point operations of all matrix products of a program, those of a loop counted for every iteration."""
    total = 0.0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            shape = equation.invars[0].aval.shape
            total += 2.0 * equation.outvars[0].aval.size * math.prod(shape[axis] for axis in contracted)
        times = equation.params["length"] if equation.primitive.name == "scan" else 1
        inner = jax.tree.leaves(list(equation.params.values()), is_leaf=lambda x: hasattr(x, "eqns"))
        total += times * sum(matrix_flops(getattr(x, "jaxpr", x)) for x in inner if hasattr(x, "eqns"))
    return total


def matrix_rate(size: int = 2048) -> float:
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
