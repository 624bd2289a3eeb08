"""The command line: `dynamite-jax COMMAND`. A command is a module with a `main`, imported when it is called.

Such a module imports its libraries inside `main`, once the command line is parsed, so that `--help` and a misspelt
argument are answered at once.
"""

import difflib
import importlib
import sys

COMMANDS = {
    "train": ("dynamite_jax.commands.train", "Train seeds of one method in one environment"),
    "collect": ("dynamite_jax.commands.collect", "Record episodes to learn from offline"),
    "to-minari": ("dynamite_jax.commands.to_minari", "Write recorded episodes as a set of Minari's"),
    "from-minari": ("dynamite_jax.commands.from_minari", "Read episodes from a set of Minari's"),
    "eval": ("dynamite_jax.commands.evaluate", "Evaluate a finished run"),
    "plot": ("dynamite_jax.commands.plot", "Draw learning curves of runs"),
    "export": ("dynamite_jax.commands.export", "Write a trained policy as files"),
    "video": ("dynamite_jax.commands.video", "Show an episode of one or more runs, with their beliefs"),
    "beliefs": ("dynamite_jax.commands.beliefs", "Draw the belief of an agent"),
    "report": ("dynamite_jax.commands.report", "Report on runs in one HTML file"),
    "table": ("dynamite_jax.commands.table", "Compare methods in one environment"),
    "ablations": ("dynamite_jax.commands.ablations", "Compare DynaMITE with and without its parts"),
    "sweep-p": ("dynamite_jax.commands.sweep_p", "Compare methods from p = 0 to p = 1"),
    "tune": ("dynamite_jax.commands.tune", "Search presets at random, by a race with as many trials for each method"),
    "bench": ("dynamite_jax.commands.bench", "Measure training speed"),
}


def main() -> None:
    """Run the command that the first argument names, with the others as its arguments."""
    name, *arguments = sys.argv[1:] or ["--help"]
    if name in ("-h", "--help"):
        print(_usage())
    elif name == "--version":
        from dynamite_jax import __version__

        print(__version__)
    elif name in COMMANDS:
        sys.argv = [f"dynamite-jax {name}", *arguments]
        importlib.import_module(COMMANDS[name][0]).main()
    else:
        close = difflib.get_close_matches(name, COMMANDS, n=1, cutoff=0.4)
        hint = f"did you mean {close[0]!r}? " if close else ""
        print(f"error: command is {name!r}; {hint}allowed: {', '.join(COMMANDS)}", file=sys.stderr)
        raise SystemExit(2)


def _usage() -> str:
    """The commands, a line each."""
    lines = ["usage: dynamite-jax COMMAND [--help] ...", ""]
    lines += [f"  {name:<11} {purpose}" for name, (_, purpose) in COMMANDS.items()]
    return "\n".join(lines)
