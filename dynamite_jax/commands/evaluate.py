"""The command that evaluates a run.

dynamite-jax eval --run runs/NAME
"""

import json
import sys
from dataclasses import dataclass
from pathlib import Path

from dynamite_envs.errors import UserError
from dynamite_jax import rules
from dynamite_jax.errors import Plugins, one_line_errors, parse, writing
from dynamite_jax.runtime import devices, processes, run_folder
from dynamite_jax.runtime.processes import Processes


@dataclass(frozen=True)
class Arguments(Plugins, Processes):
    """Evaluate a trained run: deterministic policy, fresh contexts. Writes evaluation.json into the run."""

    run: Path
    """Run folder, as written by training."""
    episodes: int = 2048
    """Episodes of each seed."""
    seed: int = 1_000_000
    """Root of the contexts and start states."""


@one_line_errors
def main() -> None:
    """Evaluate, print, write."""
    arguments = parse(Arguments, sys.argv[1:])
    if arguments.episodes < 1:
        raise UserError(f"episodes is {arguments.episodes}; it must be 1 or more")
    rules.check_root("seed", arguments.seed)
    devices.setup(None if arguments.several else run_folder.read_config(arguments.run).seeds)
    arguments.join()
    if arguments.several:  # or one that sees no run would leave the others waiting
        processes.check_shared(arguments.run / "config.json", field="run")
    from dynamite_jax.analysis.evaluation import evaluate, load_run
    from dynamite_jax.analysis.report import report

    program, params, step = load_run(arguments.run, arguments.episodes)
    result = evaluate(program, params, episodes=arguments.episodes, seed=arguments.seed)
    result |= {"chunk": step, "seed": arguments.seed}

    def conclude() -> bool:
        report(result)
        path = arguments.run / "evaluation.json"
        with writing(path, field="evaluation"):
            path.write_text(json.dumps(result, indent=2) + "\n")
        return True

    processes.by_first(conclude)


if __name__ == "__main__":
    main()
