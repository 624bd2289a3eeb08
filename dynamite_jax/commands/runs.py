"""Many runs as one job, and the table of their results."""

import dataclasses
import itertools
import json
import sys
from collections.abc import Iterable
from pathlib import Path

from rich.console import Console

from dynamite_envs.errors import UserError
from dynamite_jax import config as configs
from dynamite_jax import presets
from dynamite_jax.analysis import columns, curves, statistics
from dynamite_jax.commands import jobs
from dynamite_jax.config import Config, ConfigError
from dynamite_jax.errors import writing
from dynamite_jax.runtime import loggers, provenance, run_folder

REFERENCES = ("oracle", "markov")
MARK = "*"  # of rows that no longer hold

Table = dict[str, loggers.Record]
"""Name of each run -> its row."""


def check(run_configs: dict[str, Config]) -> None:
    """Refuse configs of which one can't run, before hours go into the others.

    Raises:
        UserError: as `config.validate`.
    """
    spare_accelerators()
    for config in run_configs.values():
        configs.validate(config)


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


def complete(
    run_configs: dict[str, Config],
    root: Path,
    file: Path,
    *,
    wanted: Iterable[str] | None = None,
    at_once: int = 1,
    allow_dirty: bool = False,
) -> Table:
    """Complete the rows of a table: those of the file that still hold are kept, all others run.

    A row holds while its config and the code that decides its numbers are today's. A run that is interrupted is
    resumed; one that was made by other code, if only in part, is moved aside and made anew.

    Args:
        run_configs: name of each row -> its config.
        root: folder of the run folders.
        file: the table as it was written before, NAME.json; it need not exist.
        wanted: names of the rows to complete; of the others those of the file are kept, if they have as many seeds.
            All by default.
        at_once: how many runs train at the same time.
        allow_dirty: accept runs of code that is not committed.

    Returns:
        Rows in the order of the configs, as `make_row` has them; `stale` says that one of them holds no longer.

    Raises:
        UserError: a folder holds another run, code is not committed, or the file can't be read.
        SystemExit: a run stopped; its message is on stderr or in its log, and the same command resumes it.
    """
    if at_once < 1:
        raise ConfigError(f"jobs is {at_once}; it must be 1 or more")
    kept = {}
    for name, row in _read(file).items():
        if name in run_configs and len(row["per_seed"]) == run_configs[name].seeds:
            kept[name] = row | {"stale": not _holds(row, run_configs[name])}
    holding = {name for name, row in kept.items() if not row["stale"]}
    missing = [name for name in (run_configs if wanted is None else wanted) if name not in holding]
    for name in missing:  # all of them before hours go into the first
        path = root / name / "config.json"
        if path.is_file():
            config = run_folder.continued(run_configs[name], path.parent)
            if changed := configs.differences(configs.load(path), config):
                raise ConfigError(f"runs: {root / name} holds another run; {'; '.join(changed)}; name another folder")
    outdated = [name for name in missing if not run_folder.of_todays_code(root / name)]
    finished = {name: root / name / run_folder.SUMMARY for name in missing}
    summaries = {
        name: json.loads(path.read_text()) for name, path in finished.items() if path.is_file() and name not in outdated
    }
    commits = {name: summary["commit"] for name, summary in summaries.items()}
    if len(summaries) < len(missing):
        commits["the code here"] = provenance.commit()
    refuse_dirty(commits, allow_dirty)
    for name in outdated:
        _set_aside(root / name)
    jobs.train({name: run_configs[name] for name in missing if name not in summaries}, root, at_once)
    for name in missing:
        if name not in summaries:
            summaries[name] = json.loads(finished[name].read_text())
        kept[name] = make_row(run_configs[name], summaries[name], loggers.read(root / name / "metrics.jsonl"))
    return {name: kept[name] for name in run_configs if name in kept}


def _read(file: Path) -> Table:
    """Rows of a table that was written before, with their curves; none where there is no file."""
    if not file.is_file():
        return {}
    try:
        rows = json.loads(file.read_text())["runs"]
    except (ValueError, KeyError, TypeError):
        raise UserError(f"out: {str(file)!r} is no table; move it away") from None
    for name, curve in curves.read(curves.beside(file)).items():
        if name in rows:
            rows[name]["curve"] = curve
    return rows


def _holds(row: loggers.Record, config: Config) -> bool:
    """Whether a row is what its run would give today."""
    try:
        earlier = configs.from_dict(row.get("config"), "the table")
    except ConfigError:  # of a version that kept none, or others
        return False
    if config.physics.impl == "auto":
        config = dataclasses.replace(config, physics=earlier.physics)
    return not configs.differences(earlier, config) and provenance.is_todays(row.get("code"))


def _set_aside(folder: Path) -> None:
    """Rename the folder of a run that was made by other code."""
    place = next(path for n in itertools.count(1) if not (path := folder.with_name(f"{folder.name}.{n}")).exists())
    folder.rename(place)
    Console(stderr=True).print(f"{folder} was made by other code; it is now {place}", markup=False, soft_wrap=True)


def spare_accelerators() -> None:
    """Compute on the CPU from here on: an accelerator's memory is for the processes that train."""
    import jax  # here, since the command line needs none of it

    jax.config.update("jax_platforms", "cpu")


def make_row(config: Config, summary: loggers.Record, records: list[loggers.Record]) -> loggers.Record:
    """The row of one run, as far as it does not depend on others.

    Args:
        config: of the run.
        summary: of the run.
        records: its metrics, one a chunk.

    Returns:
        `iqm`, `ci95`, `per_seed` of the return; `regret`, and `readout_error` of the posterior that the belief holds,
        likewise where they are known; `regret_of_discount`, which is left even to a perfect learner; `boundary`,
        `precision` and `recall` of predictions on the very step, where the method makes any; `recovery_steps` after a
        switch, None if the reward of before does not come back; `outcomes`, the counts of the environment;
        `references`, returns of reference agents; `curve`; `env_steps`, `encoder_updates`, `encoder_steps`,
        `policy_updates` of a seed; `steps_per_s`, `wall_s`, `tuning_trials`, `seed`, `config`, `commit`, `code`,
        `versions`, `machine`.
    """
    result = summary["eval"]
    of_run = ("env_steps", "encoder_updates", "encoder_steps", "policy_updates", "steps_per_s", "wall_s", "commit")
    of_run += ("code", "versions", "machine")
    measured = {"regret": result.get("regret"), "readout_error": result.get("belief", {}).get("readout_error")}
    measured["outcomes"] = result.get("outcomes")
    if "boundary" in result:
        measured["boundary"] = result["boundary"]["exact"]
    gamma = config.offline.gamma if config.setting == "offline" else config.ppo.gamma
    if "regret" in result and gamma < 1.0:
        from dynamite_envs import exact
        from dynamite_jax.analysis.references import regret_of_discount

        spare_accelerators()
        if isinstance(solution := exact.find(configs.validate(config)), exact.RegretOfDiscount):
            measured["regret_of_discount"] = regret_of_discount(solution, gamma)
    return {
        **result["return"],
        **{key: summary[key] for key in of_run if key in summary},  # earlier versions left less
        "config": configs.to_dict(config),
        "tuning_trials": presets.tuning_trials(config),
        "seed": config.seed,
        "references": result["references"],
        "curve": curves.of(records),
        "recovery_steps": result["recovery"]["steps"],
        **{key: value for key, value in measured.items() if value is not None},
    }


def score(table: Table) -> None:
    """Add to each row `score`, `auc` and `steps_to`: its return at the end and while training, and when it was reached.

    The first two are as `statistics.summarise_scaled` has them, both on one scale. That is the fraction of the
    Bayes-optimal return if it is known, else of the way from `markov` to `oracle`; without these two in the table, no
    row gets any. `steps_to` holds for each score of `columns.THRESHOLDS` what `curves.steps_to` has: the environment
    steps until a chunk of training reaches it.

    Args:
        table: rows of one environment.
    """
    for row in table.values():
        if "references" not in row:  # of a version that did not keep them; its score is as it was then
            continue
        for name in ("score", "auc", "steps_to"):
            row.pop(name, None)
        if not (scale := _scale(row["references"], table)):
            continue
        returns = {"score": row["per_seed"]}
        if "curve" in row:
            returns["auc"] = row["curve"].returns.mean(0)
            low, high = map(statistics.interquartile_mean, scale)
            thresholds = {str(level): low + level * (high - low) for level in columns.THRESHOLDS}
            row["steps_to"] = {level: curves.steps_to(row["curve"], thresholds[level]) for level in thresholds}
        for name, values in returns.items():
            row[name] = statistics.summarise_scaled(values, *scale)


def _scale(references: dict[str, float], table: Table) -> tuple[list[float], list[float]] | None:
    """Returns whose scores are 0 and 1: one where it is exact, else one a seed; None where there is no scale."""
    if "bayes_optimal" in references:
        return [0.0], [references["bayes_optimal"]]
    if {"markov", "oracle"} <= table.keys() and table["markov"]["iqm"] < table["oracle"]["iqm"]:
        return table["markov"]["per_seed"], table["oracle"]["per_seed"]
    return None


def compare(table: Table, base: str) -> None:
    """Add `loss` to each row: the score of `base` minus its own, seed by seed, as `statistics.summarise` has it."""
    if "score" in table[base]:
        base_scores = table[base]["score"]["per_seed"]
        for row in table.values():
            losses = [best - score for best, score in zip(base_scores, row["score"]["per_seed"], strict=True)]
            row["loss"] = statistics.summarise(losses)


def write(table: Table, config: Config, file: Path, *, header: str, allow_dirty: bool = False) -> None:
    """Write a table as JSON, Markdown and, of its curves, CSV, and print the Markdown.

    Args:
        table: the result of `complete`, scored.
        config: of the first run, for the fields that all have in common.
        file: NAME.json; the others are beside it.
        header: title of the column that holds the names of the runs.
        allow_dirty: also write rows of code that is not committed.

    Raises:
        UserError: a row that is not stale is of such code.
    """
    made_now = {run: row["commit"] for run, row in table.items() if not row.get("stale")}
    refuse_dirty(made_now, allow_dirty)
    runs = {run: {key: value for key, value in row.items() if key != "curve"} for run, row in table.items()}
    record = {"env": config.env, "env_options": config.env_options, "seeds": config.seeds, "runs": runs}
    file.write_text(json.dumps(record, indent=2) + "\n")
    if drawn := {run: row["curve"] for run, row in table.items() if "curve" in row}:
        curves.write(drawn, curves.beside(file))
    lines = [
        f"{config.env}, {config.seeds} seeds from root {config.seed}; interquartile mean [95 % bootstrap interval].",
        "",
    ]
    titles, cells = columns.of(table)
    lines += [f"| {' | '.join([header, *titles])} |", "|" + "---|" * (1 + len(titles))]
    for run, row in table.items():
        lines += [f"| {' | '.join([run + MARK * row.get('stale', False), *cells[run]])} |"]
    if any(row.get("stale") for row in table.values()):
        lines += ["", f"{MARK} made by earlier code or with another config."]
    text = "\n".join(lines) + "\n"
    file.with_suffix(".md").write_text(text)
    sys.stdout.write(text)
