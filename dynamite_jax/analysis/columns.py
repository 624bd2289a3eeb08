"""Columns of the tables of results: what each shows of a row that `commands.runs` makes."""

from collections.abc import Iterable, Mapping

from dynamite_jax.runtime.loggers import Record

THRESHOLDS = (0.5, 0.8, 0.9)  # scores, the steps to which are shown
LEVELS = " / ".join(map(str, THRESHOLDS))


def interval(summary: Record, digits: int) -> str:
    """`mean [low, high]` of what `statistics.summarise` returns."""
    low, high = summary["ci95"]
    return f"{summary['iqm']:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def of(rows: Mapping[str, Record]) -> tuple[list[str], dict[str, list[str]]]:
    """The columns that at least one row has: their titles, and the cells of each row, `-` where it has no such number.

    Outcomes that an environment counts come last.
    """
    columns = [column for column in _COLUMNS if any(column[1] in row for row in rows.values())]
    outcomes = list(dict.fromkeys(name for row in rows.values() for name in row.get("outcomes", {})))
    cells = {}
    for name, row in rows.items():
        cells[name] = [cell(row) if key in row else "-" for _, key, cell in columns]
        counted = row.get("outcomes", {})
        cells[name] += [interval(counted[outcome], 3) if outcome in counted else "-" for outcome in outcomes]
    return [*(title for title, _, _ in columns), *outcomes], cells


def _several(values: Iterable[float | None], digits: int = 2) -> str:
    return " / ".join("-" if value is None else f"{value:.{digits}f}" for value in values)


def _steps_to(row: Record) -> str:
    medians = (steps["median"] for steps in row["steps_to"].values())
    return _several(median and median / 1e6 for median in medians)


def _boundary(row: Record) -> str:
    return _several((row["boundary"]["precision"], row["boundary"]["recall"]))


_COLUMNS = (  # title, key of the row that it shows, cell
    ("return", "iqm", lambda row: interval(row, 2)),
    ("score", "score", lambda row: interval(row["score"], 3)),
    ("score while training", "auc", lambda row: interval(row["auc"], 3)),
    (f"M steps to {LEVELS}", "steps_to", _steps_to),
    (f"minutes to {LEVELS}", "minutes_to", lambda row: _several(row["minutes_to"].values(), 1)),
    ("worst seed", "score", lambda row: f"{min(row['score']['per_seed']):.3f}"),
    ("regret", "regret", lambda row: interval(row["regret"], 3)),
    ("regret of the discount", "regret_of_discount", lambda row: f"{row['regret_of_discount']:.3f}"),
    ("posterior error", "readout_error", lambda row: interval(row["readout_error"], 3)),
    ("boundary precision / recall", "boundary", _boundary),
    ("steps to recover", "recovery_steps", lambda row: "-" if (k := row["recovery_steps"]) is None else str(k)),
    ("loss of score", "loss", lambda row: interval(row["loss"], 3)),
    ("M steps a seed", "env_steps", lambda row: f"{row['env_steps'] / 1e6:.1f}"),
    ("encoder updates", "encoder_updates", lambda row: f"{row['encoder_updates']:,}"),
    ("minutes", "wall_s", lambda row: f"{row['wall_s'] / 60:.0f}"),
    ("tuning trials", "tuning_trials", lambda row: str(row["tuning_trials"])),
)
