"""The command that compares methods in one environment: a table and learning curves.

dynamite-jax table --env gridworld --seeds 10
"""

import dataclasses
import sys
from dataclasses import dataclass
from pathlib import Path

from dynamite_envs.errors import UserError
from dynamite_jax import presets
from dynamite_jax.commands import runs
from dynamite_jax.errors import Plugins, one_line_errors, parse
from dynamite_jax.methods import METHODS


@dataclass(frozen=True)
class Arguments(Plugins):
    """Train missing runs, resume interrupted ones, keep rows that still hold; evaluate all the same way."""

    env: str = "gridworld"
    """Environment."""
    methods: tuple[str, ...] = tuple(METHODS)
    """Methods to train; rows of others that an earlier table has are kept, and marked where they no longer hold."""
    scale: presets.Scale = "cores"
    """What the presets are sized for: a few cores, or a GPU or TPU."""
    seeds: int = 10
    """Agents of each method, all from root seed 1."""
    steps: int | None = None
    """Environment steps of each seed, the same for all; by default the preset's."""
    runs: Path = Path("runs/table")
    """Where the run folders lie, under the name of the environment."""
    out: Path = Path("results")
    """Where table.json, table_curves.csv, table.md and table.png go, under the name of the environment; the scale
    enters their names. Rows there whose config and code are today's are not made again."""
    allow_dirty: bool = False
    """Also write results of code that is not committed."""


@one_line_errors
def main() -> None:
    """Complete the runs, write the table, print it."""
    arguments = parse(Arguments, sys.argv[1:])
    from dynamite_jax.analysis.figures import draw_table

    run_configs = {}
    for method in dict.fromkeys((*METHODS, *arguments.methods)):
        config = presets.default(arguments.env, method, arguments.scale)
        steps = config.steps if arguments.steps is None else arguments.steps
        run_configs[method] = dataclasses.replace(config, seeds=arguments.seeds, steps=steps)
    scale = "" if arguments.scale == "cores" else f"_{arguments.scale}"
    root, out = arguments.runs / f"{arguments.env}{scale}", arguments.out / arguments.env
    file = out / f"table{scale}.json"
    runs.check(run_configs)
    runs.make_folder(out)
    table = runs.complete(run_configs, root, file, wanted=arguments.methods, allow_dirty=arguments.allow_dirty)
    if not table:
        raise UserError(f"methods is empty, and {file} has no rows of {arguments.seeds} seeds; name some methods")
    runs.score(table)
    first = run_configs[next(iter(table))]
    runs.write(table, first, file, header="method", allow_dirty=arguments.allow_dirty)
    draw_table(table, file.with_suffix(".png"), title=arguments.env)


if __name__ == "__main__":
    main()
