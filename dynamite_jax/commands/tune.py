"""The command that tunes presets.

dynamite-jax tune --env gridworld --methods dynamite
"""

import dataclasses
import json
import sys
from dataclasses import dataclass
from pathlib import Path

from dynamite_envs.errors import UserError
from dynamite_jax import presets
from dynamite_jax.commands import runs
from dynamite_jax.errors import Plugins, one_line_errors, parse
from dynamite_jax.methods import METHODS
from dynamite_jax.runtime import devices


@dataclass(frozen=True)
class Arguments(Plugins):
    """Search around the current preset; the best trial becomes the preset of runs started from this folder.

    Trials are short. The best of them train again to the end with other seeds, and one of these is chosen.
    """

    env: str = "gridworld"
    """Environment."""
    methods: tuple[str, ...] = tuple(METHODS)
    """Methods; every one gets the same budget."""
    trials: int = 8
    """Settings tried, the preset itself among them."""
    seeds: int = 2
    """Agents of each trial; a finalist has twice as many."""
    steps: int | None = None
    """Environment steps of each agent in a trial; by default half of the preset's, which finalists train for."""
    finalists: int = 2
    """Best trials that train again."""
    out: Path = presets.TUNED
    """Where ENV_METHOD.json goes; in the default folder, runs started from here find it. What is to be shipped goes to
    dynamite_jax/tuned in a checkout."""


@one_line_errors
def main() -> None:
    """Search, write, print the chosen setting."""
    arguments = parse(Arguments, sys.argv[1:])
    for name in ("trials", "seeds", "finalists"):
        if getattr(arguments, name) < 1:
            raise UserError(f"{name} is {getattr(arguments, name)}; it must be 1 or more")
    runs.make_folder(arguments.out)
    devices.setup(2 * arguments.seeds)
    from dynamite_jax.runtime import tuning

    for method in arguments.methods:
        preset = presets.default(arguments.env, method)
        steps = arguments.steps or max(1, preset.steps // 2)
        trial = dataclasses.replace(preset, seeds=arguments.seeds, seed=tuning.ROOT, steps=steps)
        record = tuning.tune(preset, trial, trials=arguments.trials, finalists=arguments.finalists)
        path = arguments.out / f"{arguments.env}_{method}.json"
        path.write_text(json.dumps(record, indent=2) + "\n")
        best = max(final["return"] for final in record["finalists"])
        print(f"{method}: return {best:.2f} with {record['changes']} -> {path}")


if __name__ == "__main__":
    main()
