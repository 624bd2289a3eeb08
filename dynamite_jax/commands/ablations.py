"""The command that compares DynaMITE with and without its parts.

dynamite-jax ablations --env gridworld --seeds 10
"""

import dataclasses
import math
import sys
from dataclasses import dataclass
from pathlib import Path

from dynamite_envs.errors import UserError
from dynamite_envs.registry import nearest
from dynamite_jax import presets
from dynamite_jax.commands import runs
from dynamite_jax.commands.runs import REFERENCES
from dynamite_jax.config import Config, changed
from dynamite_jax.errors import Plugins, one_line_errors, parse

PARTS = {
    "dynamite": {},
    "no consistency": {"vae.consistency": False},
    "no conditioning": {"vae.conditioning": False},
    "no session mask": {"vae.session_mask": False},
    "no boundary head": {"vae.boundary_head": False},
    "predicted boundaries": {"vae.boundaries": "predicted"},
    "boundary of the next step": {"vae.boundary_alignment": "action"},
    "chain of beliefs": {"vae.kl_target": "previous_belief"},
    "reset at boundaries": {"vae.reset_at_boundary": True},
    "reset, no conditioning": {"vae.reset_at_boundary": True, "vae.conditioning": False},
    "posteriors of sessions": {"vae.posterior": "session"},
    "posteriors of sessions, no conditioning": {"vae.posterior": "session", "vae.conditioning": False},
    "newest weights act": {"vae.average_rate": 1.0},
    "transformer": {"network.encoder": "transformer"},
}
END_TO_END = "policy trains the encoder"


@dataclass(frozen=True)
class Arguments(Plugins):
    """Train DynaMITE, and DynaMITE with one switch changed at a time; the references beside them scale the score."""

    env: str = "gridworld"
    """Environment."""
    seeds: int = 10
    """Agents of each row, all from root seed 1."""
    rows: tuple[str, ...] | None = None
    """Rows to train beside `dynamite`, by default all; of the others those that an earlier table has are kept."""
    steps: int | None = None
    """Environment steps of each seed, the same for all; by default the preset's."""
    runs: Path = Path("runs/ablations")
    """Where the run folders lie, under the name of the environment."""
    out: Path = Path("results")
    """Where ablations.md, ablations.json and ablations.png go, under the name of the environment."""
    jobs: int = 1
    """Runs that train at the same time, each with its output in a file NAME.log beside its folder."""
    allow_dirty: bool = False
    """Also write results of code that is not committed."""


def variants(env: str, seeds: int, steps: int | None) -> dict[str, Config]:
    """Name of each row -> its config; a switch that the preset has already makes no row."""
    base = presets.default(env, "dynamite")
    shared = {"seeds": seeds, "steps": base.steps if steps is None else steps}
    whole_episodes = {"ppo.shuffle": "episodes", "ppo.minibatches": math.gcd(base.num_envs, base.ppo.minibatches)}
    parts = PARTS | {END_TO_END: {"vae.average_rate": 1.0, "ppo.through_encoder": True, **whole_episodes}}
    run_configs = {name: changed(base, changes | shared) for name, changes in parts.items()}
    whole = run_configs["dynamite"]
    run_configs = {name: config for name, config in run_configs.items() if name == "dynamite" or config != whole}
    return run_configs | {name: dataclasses.replace(presets.default(env, name), **shared) for name in REFERENCES}


@one_line_errors
def main() -> None:
    """Complete the runs, write the table, print it."""
    arguments = parse(Arguments, sys.argv[1:])
    from dynamite_jax.analysis.figures import draw_table

    run_configs = variants(arguments.env, arguments.seeds, arguments.steps)
    wanted = None if arguments.rows is None else ("dynamite", *arguments.rows)
    if unknown := [name for name in wanted or () if name not in run_configs]:
        raise UserError(f"rows has {unknown[0]!r}; {nearest(unknown[0], run_configs)}")
    root, out = arguments.runs / arguments.env, arguments.out / arguments.env
    runs.check(run_configs)
    runs.make_folder(out)
    file = out / "ablations.json"
    table = runs.complete(
        run_configs, root, file, wanted=wanted, at_once=arguments.jobs, allow_dirty=arguments.allow_dirty
    )
    runs.score(table)
    runs.compare(table, "dynamite")
    runs.write(table, run_configs["dynamite"], file, header="variant", allow_dirty=arguments.allow_dirty)
    draw_table(table, file.with_suffix(".png"), title=arguments.env)


if __name__ == "__main__":
    main()
