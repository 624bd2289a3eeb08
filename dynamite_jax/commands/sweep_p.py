"""The command that compares methods from contexts that never change to contexts that change at every step.

dynamite-jax sweep-p --env gridworld --seeds 5
"""

import dataclasses
import sys
from dataclasses import dataclass
from pathlib import Path

from dynamite_jax import presets
from dynamite_jax.commands import runs
from dynamite_jax.commands.runs import REFERENCES
from dynamite_jax.config import Config
from dynamite_jax.errors import Plugins, one_line_errors, parse


@dataclass(frozen=True)
class Arguments(Plugins):
    """Train methods at several probabilities p of a switch, everything else the same."""

    env: str = "gridworld"
    """Environment."""
    methods: tuple[str, ...] = ("dynamite", "varibad")
    """Methods."""
    p: tuple[float, ...] = (0.0, 0.02, 0.05, 0.1, 0.3, 1.0)
    """Probabilities that the context changes after a step."""
    seeds: int = 5
    """Agents of each method and p, all from root seed 1."""
    steps: int | None = None
    """Environment steps of each seed, the same for all; by default the preset's."""
    runs: Path = Path("runs/sweep_p")
    """Where the run folders lie, under the name of the environment."""
    out: Path = Path("results")
    """Where sweep_p.md, sweep_p.json and sweep_p.png go, under the name of the environment."""
    jobs: int = 1
    """Runs that train at the same time, each with its output in a file NAME.log beside its folder."""
    allow_dirty: bool = False
    """Also write results of code that is not committed."""


@one_line_errors
def main() -> None:
    """Complete the runs, write the table, print it."""
    arguments = parse(Arguments, sys.argv[1:])
    from dynamite_envs import exact, registry
    from dynamite_jax.analysis.figures import draw_sweep
    from dynamite_jax.analysis.references import references

    methods = arguments.methods
    if "bayes_optimal" not in references(exact.find(registry.make(arguments.env))):
        methods += tuple(name for name in REFERENCES if name not in methods)
    configs_at: dict[float, dict[str, Config]] = {}
    for p in arguments.p:
        configs_at[p] = {}
        for method in methods:
            config = presets.default(arguments.env, method)
            steps = config.steps if arguments.steps is None else arguments.steps
            options = {**config.env_options, "p": p}
            configs_at[p][method] = dataclasses.replace(config, seeds=arguments.seeds, steps=steps, env_options=options)
    run_configs = {_run_name(method, p): config for p in configs_at for method, config in configs_at[p].items()}
    out = arguments.out / arguments.env
    runs.check(run_configs)
    runs.make_folder(out)
    file = out / "sweep_p.json"
    table = runs.complete(
        run_configs, arguments.runs / arguments.env, file, at_once=arguments.jobs, allow_dirty=arguments.allow_dirty
    )
    for p, method_configs in configs_at.items():  # references are those of the same p
        of_p = {method: table[_run_name(method, p)] for method in method_configs}
        runs.score(of_p)
    first = next(iter(run_configs.values()))
    runs.write(table, first, file, header="method and p", allow_dirty=arguments.allow_dirty)
    picture = out / "sweep_p.png"
    draw_sweep(table, methods=arguments.methods, p=arguments.p, env=arguments.env, out=picture)


def _run_name(method: str, p: float) -> str:
    """Name of the run folder, and of the row."""
    return f"{method} p={p}"


if __name__ == "__main__":
    main()
