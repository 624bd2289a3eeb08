"""Many runs as one job, and the table of their results."""

import json
import multiprocessing
import sys
from pathlib import Path

from rich.console import Console

from dynamite_envs.errors import UserError
from dynamite_jax import config as configs
from dynamite_jax import presets
from dynamite_jax.analysis import statistics
from dynamite_jax.config import Config, ConfigError
from dynamite_jax.errors import one_line_errors, writing
from dynamite_jax.runtime import devices, loggers, provenance

REFERENCES = ("oracle", "markov")


def _interval(summary: loggers.Record, digits: int) -> str:
    low, high = summary["ci95"]
    return f"{summary['iqm']:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


COLUMNS = (  # title, key of the row that it shows, cell
    ("return", "iqm", lambda row: _interval(row, 2)),
    ("score", "score", lambda row: _interval(row["score"], 3)),
    ("regret", "regret", lambda row: _interval(row["regret"], 3)),
    ("posterior error", "readout_error", lambda row: _interval(row["readout_error"], 3)),
    ("worst seed", "score", lambda row: f"{min(row['score']['per_seed']):.3f}"),
    ("loss of score", "loss", lambda row: _interval(row["loss"], 3)),
    ("steps a seed", "env_steps", lambda row: f"{row['env_steps'] / 1e6:.1f} M"),
    ("minutes", "wall_s", lambda row: f"{row['wall_s'] / 60:.0f}"),
    ("tuning trials", "tuning_trials", lambda row: str(row["tuning_trials"])),
)


def make_folder(folder: Path) -> None:
    """Make the folder of the results, before hours go into them.

    Raises:
        ConfigError: it can't be made.
    """
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)


def refuse_dirty(commits: dict[str, str | None], allow_dirty: bool) -> None:
    """Refuse results of code that is not committed, unless `allow_dirty`.

    Args:
        commits: name of each run -> the commit of its code; None outside a checkout, which is accepted.
        allow_dirty: accept all.

    Raises:
        UserError: names the first whose commit ends in `-dirty`.
    """
    for name, commit in commits.items():
        if not allow_dirty and (commit or "").endswith("-dirty"):
            raise UserError(f"commit of {name} is {commit}: commit the changes and train anew, or add --allow-dirty")


def complete(run_configs: dict[str, Config], root: Path, allow_dirty: bool = False) -> dict[str, loggers.Record]:
    """Complete runs one after the other: missing ones are trained, interrupted ones resumed, finished ones kept.

    Args:
        run_configs: name of each run -> its config.
        root: folder of the run folders.
        allow_dirty: accept runs of code that is not committed.

    Returns:
        Name of each run -> its summary.

    Raises:
        UserError: a folder holds another run, or code is not committed.
        SystemExit: a run stopped; its message is on stderr, and the same command resumes it.
    """
    for name, config in run_configs.items():  # all of them before hours go into the first
        path = root / name / "config.json"
        if path.is_file() and (changed := configs.differences(configs.load(path), config)):
            raise ConfigError(f"runs: {root / name} holds another run; {'; '.join(changed)}; name another folder")
    paths = {name: root / name / "summary.json" for name in run_configs}
    commits = {name: json.loads(path.read_text())["commit"] for name, path in paths.items() if path.is_file()}
    if len(commits) < len(run_configs):
        commits["the code here"] = provenance.commit()
    refuse_dirty(commits, allow_dirty)
    summaries = {}
    for number, (name, config) in enumerate(run_configs.items(), start=1):
        path = paths[name]
        if not path.is_file():
            Console(stderr=True).print(f"run {number} of {len(run_configs)}: {name}", markup=False)
            # In a process of its own, so that its devices and the memory it reports are its own.
            process = multiprocessing.get_context("spawn").Process(target=_train, args=(config, path.parent))
            process.start()
            process.join()
            if process.exitcode:
                raise SystemExit(abs(process.exitcode))
        summaries[name] = json.loads(path.read_text())
    return summaries


@one_line_errors
def _train(config: Config, out: Path) -> None:
    devices.setup(config.seeds)
    from dynamite_jax.runtime import training

    training.train(config, out, resume=(out / "config.json").is_file())


def rows(run_configs: dict[str, Config], summaries: dict[str, loggers.Record]) -> dict[str, loggers.Record]:
    """The rows of a table, one for each run.

    Args:
        run_configs: name of each run -> its config.
        summaries: name of each run -> its summary.

    Returns:
        Name -> `iqm`, `ci95`, `per_seed` of the return; `regret`, and `readout_error` of the posterior that the belief
        holds, likewise where they are known; `outcomes`, the counts of the environment; `score` likewise, the fraction
        of the Bayes-optimal return if that is known, else of the way from `markov` to `oracle` where both are among the
        runs; `env_steps`, `steps_per_s`, `wall_s`, `tuning_trials`, `seed`, `config`, `commit`, `versions`, `machine`.
    """
    table = {}
    for name, config in run_configs.items():
        summary = summaries[name]
        result = summary["eval"]
        table[name] = {
            **result["return"],
            **{key: summary[key] for key in ("env_steps", "steps_per_s", "wall_s", "commit", "versions", "machine")},
            "config": configs.to_dict(config),
            "tuning_trials": presets.tuning_trials(config),
            "seed": config.seed,
        }
        measured = {"regret": result.get("regret"), "readout_error": result.get("belief", {}).get("readout_error")}
        table[name] |= {key: value for key, value in measured.items() if value}
        if "outcomes" in result:
            table[name]["outcomes"] = result["outcomes"]
        bottom, top = _scale(result["references"], summaries)
        if top is not None:
            score = [(value - bottom) / (top - bottom) for value in result["return"]["per_seed"]]
            table[name]["score"] = statistics.summarise(score)
    return table


def _scale(references: dict[str, float], summaries: dict[str, loggers.Record]) -> tuple[float, float | None]:
    """Returns whose scores are 0 and 1; None for the latter where it is unknown."""
    if "bayes_optimal" in references:
        return 0.0, references["bayes_optimal"]
    if {"markov", "oracle"} <= summaries.keys():
        return summaries["markov"]["eval"]["return"]["iqm"], summaries["oracle"]["eval"]["return"]["iqm"]
    return 0.0, None


def compare(table: dict[str, loggers.Record], base: str) -> None:
    """Add `loss` to each row: the score of `base` minus its own, seed by seed, as `statistics.summarise` has it."""
    if "score" in table[base]:
        base_scores = table[base]["score"]["per_seed"]
        for row in table.values():
            losses = [best - score for best, score in zip(base_scores, row["score"]["per_seed"], strict=True)]
            row["loss"] = statistics.summarise(losses)


def write(
    table: dict[str, loggers.Record],
    config: Config,
    folder: Path,
    *,
    name: str,
    header: str,
    allow_dirty: bool = False,
) -> None:
    """Write `folder`/`name`.json and .md, and print the latter.

    Args:
        table: the result of `rows`.
        config: of the first run, for the fields that all have in common.
        folder: of the files.
        name: of the files.
        header: title of the column that holds the names of the runs.
        allow_dirty: also write rows of code that is not committed.

    Raises:
        UserError: a row is of such code.
    """
    refuse_dirty({run: row["commit"] for run, row in table.items()}, allow_dirty)
    record = {"env": config.env, "env_options": config.env_options, "seeds": config.seeds, "runs": table}
    (folder / f"{name}.json").write_text(json.dumps(record, indent=2) + "\n")
    lines = [
        f"{config.env}, {config.seeds} seeds from root {config.seed}; interquartile mean [95 % bootstrap interval].",
        "",
    ]
    columns = [column for column in COLUMNS if any(column[1] in row for row in table.values())]
    outcome_names = list(dict.fromkeys(outcome for row in table.values() for outcome in row.get("outcomes", {})))
    titles = [header, *(title for title, _, _ in columns), *outcome_names]
    lines += [f"| {' | '.join(titles)} |", "|" + "---|" * len(titles)]
    for run, row in table.items():
        cells = [cell(row) if key in row else "-" for _, key, cell in columns]
        outcomes = row.get("outcomes", {})
        cells += [_interval(outcomes[name], 3) if name in outcomes else "-" for name in outcome_names]
        lines += [f"| {' | '.join([run, *cells])} |"]
    text = "\n".join(lines) + "\n"
    (folder / f"{name}.md").write_text(text)
    sys.stdout.write(text)
