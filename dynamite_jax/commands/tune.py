"""The command that tunes presets.

dynamite-jax tune --env gridworld --methods dynamite
"""

import dataclasses
import sys
from dataclasses import dataclass
from pathlib import Path

from dynamite_jax import presets
from dynamite_jax.commands import runs
from dynamite_jax.errors import Plugins, one_line_errors, parse
from dynamite_jax.methods import of_setting
from dynamite_jax.runtime import devices


@dataclass(frozen=True)
class Arguments(Plugins):
    """Search around the current preset; the best trial becomes the preset of runs started from this folder.

    Trials race for the highest mean return in training: rung by rung the better part goes on. The best of them train
    again with other seeds, and one of these is chosen.
    """

    env: str = "gridworld"
    """Environment."""
    methods: tuple[str, ...] = of_setting("online")
    """Methods; every one gets as many trials."""
    trials: int = 24
    """Settings tried, the preset itself among them."""
    seeds: int = 2
    """Agents of each trial; a finalist has twice as many."""
    steps: int | None = None
    """Environment steps of each agent that trains to the end; by default the preset's."""
    rungs: int = 3
    """Stages of the race; each ends after twice as many steps as the one before, the last after all steps."""
    keep: float = 0.5
    """Part of the trials of a rung that goes on to the next."""
    finalists: int = 2
    """Best trials that train again."""
    out: Path = presets.TUNED
    """Where ENV_METHOD.json goes; in the default folder, runs started from here find it. What is to be shipped goes to
    dynamite_jax/tuned in a checkout."""


@one_line_errors
def main() -> None:
    """Search, write, print the chosen setting."""
    arguments = parse(Arguments, sys.argv[1:])
    starts = [presets.default(arguments.env, method) for method in arguments.methods]
    if arguments.steps is not None:
        starts = [dataclasses.replace(preset, steps=arguments.steps) for preset in starts]
    devices.setup(max(1, 2 * arguments.seeds))
    from dynamite_jax.runtime import tuning

    options = {name: getattr(arguments, name) for name in ("trials", "seeds", "rungs", "keep", "finalists")}
    for preset in starts:
        tuning.check(preset, **options)
    runs.make_folder(arguments.out)
    for preset in starts:
        record = tuning.tune(preset, **options)
        path = tuning.write(record, arguments.out)
        finite = [final for final in record["finalists"] if final["scores"][-1] is not None]
        best = max(finite, key=lambda final: final["scores"][-1])
        found = (
            f"return {best['scores'][-1]:.2f} in training, {best['return']:.2f} of the deterministic policy at the end"
        )
        print(f"{preset.method}: {found}, with {record['changes']} -> {path}", flush=True)


if __name__ == "__main__":
    main()
