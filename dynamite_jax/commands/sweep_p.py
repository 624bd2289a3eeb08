"""How methods fare from contexts that never change to contexts that change at every step.

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
    allow_dirty: bool = False
    """Also write results of code that is not committed."""


@one_line_errors
def main() -> None:
    """Train, write, print."""
    arguments = parse(Arguments, sys.argv[1:])
    from dynamite_envs import exact, registry
    from dynamite_jax.analysis.figures import draw_sweep
    from dynamite_jax.analysis.references import references

    methods = arguments.methods
    if "bayes_optimal" not in references(exact.find(registry.make(arguments.env))):
        methods += tuple(name for name in REFERENCES if name not in methods)
    wanted: dict[float, dict[str, Config]] = {}
    for p in arguments.p:
        wanted[p] = {}
        for method in methods:
            config = presets.default(arguments.env, method)
            steps, options = arguments.steps or config.steps, {**config.env_options, "p": p}
            wanted[p][method] = dataclasses.replace(config, seeds=arguments.seeds, steps=steps, env_options=options)
    name = "{} p={}".format
    every = {name(method, p): config for p in wanted for method, config in wanted[p].items()}
    out = arguments.out / arguments.env
    runs.make_folder(out)
    summaries = runs.complete(every, arguments.runs / arguments.env, arguments.allow_dirty)
    found = {}
    for p in wanted:  # references are those of the same p
        here = runs.rows(wanted[p], {method: summaries[name(method, p)] for method in wanted[p]})
        found |= {name(method, p): row for method, row in here.items()}
    first = next(iter(every.values()))
    runs.write(found, first, out, name="sweep_p", header="method and p", allow_dirty=arguments.allow_dirty)
    picture = out / "sweep_p.png"
    draw_sweep(found, methods=arguments.methods, p=arguments.p, env=arguments.env, out=picture)


if __name__ == "__main__":
    main()
