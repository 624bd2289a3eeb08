"""The command that reports on runs in one HTML file.

dynamite-jax report --runs runs/A runs/B --out report.html
"""

import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from dynamite_envs.errors import UserError
from dynamite_jax.commands.arguments import RunsArguments
from dynamite_jax.config import ConfigError
from dynamite_jax.errors import check_folder, one_line_errors, parse
from dynamite_jax.runtime import run_folder


@dataclass(frozen=True)
class Arguments(RunsArguments):
    """Report on runs in one HTML file: curves, results, configuration, and the pictures that lie in the run folders."""

    out: Path = Path("report.html")
    """File to write; it is replaced if it is there."""
    title: str = ""
    """Title; by default the environment."""


@one_line_errors
def main() -> None:
    """Read the runs, write the page, and print its path."""
    arguments = parse(Arguments, sys.argv[1:])
    runs = arguments.runs
    run_folder.check_several(runs, arguments.labels)
    if arguments.out.suffix != ".html":
        raise ConfigError(f"out is {str(arguments.out)!r}; its name must end in .html")
    check_folder(arguments.out)
    if find_spec("plotly") is None:
        raise UserError("the package plotly is missing, which the extra report installs")
    from dynamite_jax.analysis import figures, html_report
    from dynamite_jax.commands.runs import make_row, score

    loaded = [figures.load(run) for run in runs]
    of_runs = [config for config, _ in loaded]
    run_folder.check_one_env(runs, of_runs)
    names = run_folder.names(runs, of_runs, arguments.labels)
    shown, rows = [], {}
    for name, run, (config, records) in zip(names, runs, loaded, strict=True):
        finished = (run / run_folder.SUMMARY).is_file()
        summary = run_folder.read_summary(run) if finished else None
        if summary:
            rows[name] = make_row(config, summary, records)
        shown.append(html_report.Run(name, run, config, records, summary, rows.get(name)))
    score(rows)
    html_report.write(shown, arguments.out, arguments.title or of_runs[0].env)
    print(arguments.out)


if __name__ == "__main__":
    main()
