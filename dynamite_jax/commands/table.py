"""The command that compares methods in one environment: a table and learning curves.

dynamite-jax table --env gridworld --seeds 10
"""

import dataclasses
import sys
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dynamite_envs.errors import UserError
from dynamite_jax import config as configs
from dynamite_jax import presets
from dynamite_jax.commands import runs
from dynamite_jax.config import Config
from dynamite_jax.errors import Plugins, one_line_errors, parse
from dynamite_jax.methods import of_setting

OFFLINE: dict[str, tuple[str, dict[str, Any]]] = {
    "dynamite": ("dynamite", {}),
    "dynamite, relabelled": ("dynamite", {"offline.relabel": 0.5}),
    "secbad": ("secbad", {}),
    "borel": ("borel", {}),
    "borel, not relabelled": ("borel", {"offline.relabel": 0.0}),
    "task_inference": ("task_inference", {}),
    "bc": ("dynamite", {"offline.learner": "bc", "offline.relabel": 0.0}),
    "bc on observations": ("markov", {"offline.learner": "bc", "offline.relabel": 0.0}),
    "oracle": ("oracle", {}),
    "markov": ("markov", {}),
}
"""Rows of the offline setting: a method, and what differs from its preset. `bc` clones on the belief of `dynamite`."""


@dataclass(frozen=True)
class Arguments(Plugins):
    """Train missing runs, resume interrupted ones, keep rows that still hold; evaluate all the same way."""

    env: str = "gridworld"
    """Environment."""
    setting: presets.Setting = "online"
    """Whether methods learn from episodes that they play, or from recorded ones, those of `data`."""
    data: Path | None = None
    """Folder of the recorded episodes, as `collect` writes it."""
    methods: tuple[str, ...] | None = None
    """Rows to complete, by default all: methods, offline also variants of them. Other rows that an earlier table has
    are kept, and marked where they no longer hold."""
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
    enters their names, and offline ones are in a folder `offline`. Rows there whose config and code are today's are not
    made again."""
    jobs: int = 1
    """Runs that train at the same time, each with its output in a file NAME.log beside its folder."""
    allow_dirty: bool = False
    """Also write results of code that is not committed."""


@one_line_errors
def main() -> None:
    """Complete the runs, write the table, print it."""
    arguments = parse(Arguments, sys.argv[1:])
    from dynamite_jax.analysis.figures import draw_table

    offline = arguments.setting == "offline"
    run_configs = _offline(arguments) if offline else _online(arguments)
    scale = "" if arguments.scale == "cores" else f"_{arguments.scale}"
    root, out = arguments.runs / f"{arguments.env}{scale}", arguments.out / arguments.env
    if offline:
        root, out = root.with_name(f"{root.name}_offline"), out / "offline"
    file = out / f"table{scale}.json"
    runs.check(run_configs)
    runs.make_folder(out)
    table = runs.complete(
        run_configs, root, file, wanted=arguments.methods, at_once=arguments.jobs, allow_dirty=arguments.allow_dirty
    )
    if not table:
        raise UserError(f"methods is empty, and {file} has no rows of {arguments.seeds} seeds; name some methods")
    runs.score(table)
    first = run_configs[next(iter(table))]
    runs.write(table, first, file, header="method", allow_dirty=arguments.allow_dirty)
    draw_table(table, file.with_suffix(".png"), title=f"{arguments.env}, offline" if offline else arguments.env)


def _online(arguments: Arguments) -> dict[str, Config]:
    """Name of each row -> its config."""
    if arguments.data is not None:
        raise UserError(f"data is {str(arguments.data)!r}; with setting 'online' it must be left out")
    names = dict.fromkeys((*of_setting("online"), *(arguments.methods or ())))
    return {name: _sized(presets.default(arguments.env, name, arguments.scale), arguments) for name in names}


def _offline(arguments: Arguments) -> dict[str, Config]:
    """Name of each row -> its config; those that would be the same as others are left out.

    Raises:
        UserError: the episodes can't be used, or a row is unknown.
    """
    from dynamite_jax.datasets.recording import can_relabel
    from dynamite_jax.datasets.windows import Windows

    runs.spare_accelerators()
    if arguments.data is None:
        raise UserError("data is not set; with setting 'offline' it must be a folder of recorded episodes")
    _check_known(arguments.methods, OFFLINE)
    presets_of = {
        method: presets.default(arguments.env, method, arguments.scale, "offline") for method, _ in OFFLINE.values()
    }
    first = configs.changed(presets_of["dynamite"], {"offline.data": str(arguments.data)})
    env = configs.validate(first)
    dataset = Windows.of_config(first, env).dataset
    rows: dict[str, Config] = {}
    for name, (method, changes) in OFFLINE.items():
        config = configs.changed(presets_of[method], {"offline.data": str(arguments.data), **changes})
        if config not in rows.values() and (can_relabel(env) or not config.offline.relabel):
            rows[name] = config
    _check_known(arguments.methods, rows)
    return {name: _sized(dataset.settled(config), arguments) for name, config in rows.items()}


def _check_known(names: tuple[str, ...] | None, rows: Collection[str]) -> None:
    from dynamite_envs.registry import nearest

    for name in names or ():
        if name not in rows:
            raise UserError(f"methods has {name!r}; {nearest(name, rows)}")


def _sized(config: Config, arguments: Arguments) -> Config:
    steps = config.steps if arguments.steps is None else arguments.steps
    return dataclasses.replace(config, seeds=arguments.seeds, steps=steps)


if __name__ == "__main__":
    main()
