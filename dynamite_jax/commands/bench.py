"""The command that measures how fast training is.

dynamite-jax bench --env gridworld
"""

import dataclasses
import json
import sys
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from dynamite_envs import registry
from dynamite_envs.errors import UserError
from dynamite_jax import presets
from dynamite_jax.errors import Plugins, one_line_errors, parse
from dynamite_jax.runtime import devices, loggers


@dataclass(frozen=True)
class Arguments(Plugins):
    """Measure complete training (rollout, belief and policy updates) with the very preset that `train` uses."""

    env: str = "gridworld"
    """Environment."""
    method: str = "dynamite"
    """Method."""
    methods: tuple[str, ...] = ()
    """Methods whose training is timed chunk by chunk in turn, to compare their times; nothing else is measured."""
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


def _report(result: loggers.Record) -> None:
    console = Console()
    low, high = result["steps_per_s_quartiles"]
    table = Table(title="{env}, {method}, {seeds} seeds x {num_envs} environments".format(**result), show_header=False)
    table.add_row("training, environment steps/s", f"{result['steps_per_s']:,.0f} (quartiles {low:,.0f} - {high:,.0f})")
    table.add_row("compile, cold / warm", f"{result['compile_s']:.1f} s / {result['warm_compile_s']:.1f} s")
    if result["peak_mb"] is not None:
        table.add_row("peak memory", f"{result['peak_mb']:,.0f} MB")
    total = sum(phase["us"] for phase in result["phases"].values())
    for name, phase in result["phases"].items():
        cell = f"{phase['us']:.2f} ({phase['us'] / total:.0%}), {phase['flops'] / 1e3:.0f} kFLOP"
        table.add_row(f"{name}, us a step", cell)
    environment, acting = (result["phases"][name]["us"] for name in ("environment", "encoder and policy"))
    table.add_row("environment alone, steps/s", f"{1e6 / environment:,.0f}")
    table.add_row("acting and learning add to that", f"{result['overhead']:.0%}")
    table.add_row("environment, belief and policy, steps/s", f"{1e6 / (environment + acting):,.0f}")
    names = {"jax": "MJX", "c": "C MuJoCo in the program", "c_mujoco": "mujoco.rollout on all cores"}
    for way, rate in result.get("physics", {}).items():
        table.add_row(f"physics alone, {names[way]}, steps/s", "not here" if rate is None else f"{rate:,.0f}")
    floor = result["floor"]
    needed, rate = floor["flops_per_step"] / 1e3, floor["matrix_gflops"]
    table.add_row("arithmetic", f"{needed:.0f} kFLOP a step; {rate:.0f} GFLOP/s measured")
    table.add_row("floor", f"{floor['floor_steps_per_s']:,.0f} steps/s; reached {floor['fraction_of_floor']:.0%}")
    console.print(table)


def _report_methods(result: loggers.Record) -> None:
    table = Table(title="{env}, {seeds} seeds, chunk by chunk in turn".format(**result))
    for title in ("method", "environment steps/s", "least", "greatest", "seconds for 1 M steps a seed"):
        table.add_column(title, justify="left" if title == "method" else "right")
    for name, rates in result["steps_per_s"].items():
        seconds = 1e6 * result["seeds"] / rates["median"]
        values = (rates["median"], min(rates["all"]), max(rates["all"]), seconds)
        table.add_row(name, *(f"{value:,.0f}" for value in values))
    Console().print(table)


@one_line_errors
def main() -> None:
    """Measure and print."""
    arguments = parse(Arguments, sys.argv[1:])
    if arguments.repeats < 1:
        raise UserError(f"repeats is {arguments.repeats}; it must be 1 or more")
    if arguments.methods and arguments.num_envs:
        raise UserError(f"num_envs is {arguments.num_envs}; with --methods each has the number of its preset")
    if arguments.methods:
        run_configs = {name: presets.default(arguments.env, name, arguments.scale) for name in arguments.methods}
        devices.setup(arguments.seeds)
        from dynamite_jax.runtime import speed

        run_configs = {name: dataclasses.replace(config, seeds=arguments.seeds) for name, config in run_configs.items()}
        result = speed.compare(run_configs, arguments.repeats)
        if arguments.json:
            print(json.dumps(result), flush=True)
        else:
            _report_methods(result)
        return
    preset = presets.default(arguments.env, arguments.method, arguments.scale)
    devices.setup(arguments.seeds)
    from dynamite_jax.runtime import speed

    horizon = registry.make(arguments.env).horizon
    for num_envs in arguments.num_envs or (preset.num_envs,):
        steps = max(preset.steps, num_envs * horizon)
        config = dataclasses.replace(preset, seeds=arguments.seeds, num_envs=num_envs, steps=steps)
        result = speed.measure(config, arguments.repeats)
        if arguments.json:
            print(json.dumps(result), flush=True)
        else:
            _report(result)


if __name__ == "__main__":
    main()
