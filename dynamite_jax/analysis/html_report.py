"""A report on runs as one HTML file that needs no network."""

import base64
import io
import shlex
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jinja2 import Environment, StrictUndefined
from matplotlib.colors import to_hex
from PIL import Image
from plotly.offline import get_plotlyjs  # of an extra  # pyright: ignore[reportMissingImports]

import dynamite_jax
from dynamite_envs.errors import UserError
from dynamite_jax import rules
from dynamite_jax.analysis import columns, statistics
from dynamite_jax.analysis.figures import looks
from dynamite_jax.config import Config
from dynamite_jax.errors import writing
from dynamite_jax.runtime import run_folder
from dynamite_jax.runtime.loggers import Record

RESAMPLES = 1000  # of a bootstrap at each point of a curve
DASHES = {"-": ("solid", "solid"), "--": ("dash", "dashed"), "-.": ("dashdot", "dashed"), ":": ("dot", "dotted")}
NOT_CURVES = {"chunk", "env_steps", "wall_s", "return_iqm"}


class Run(NamedTuple):
    """What a report shows of a run.

    Attributes:
        name: what it is called.
        folder: its folder.
        config: its config.
        records: its metrics, one a chunk.
        summary: what it left when it was finished; None before.
        row: as a table has it; None before, too.
    """

    name: str
    folder: Path
    config: Config
    records: list[Record]
    summary: Record | None
    row: Record | None


def write(runs: Sequence[Run], out: Path, title: str) -> None:
    """Write the report.

    Args:
        runs: of one environment, with different names.
        out: file; it is replaced if it is there.
        title: of the page.

    Raises:
        UserError: it can't be written.
    """
    template = resources.files("dynamite_jax.analysis").joinpath("html_report.html").read_text()
    page = Environment(autoescape=True, undefined=StrictUndefined).from_string(template)
    titles, cells = columns.of({run.name: run.row for run in runs if run.row})
    references = next((run.row["references"] for run in runs if run.row), {})
    drawn = [_curves(run) for run in runs]
    pictures = [_pictures(run) for run in runs]
    shown = [{**look, "pictures": each} for look, each in zip(_looks(runs), pictures, strict=True)]
    text = page.render(
        title=title,
        subtitle=f"dynamite_jax {dynamite_jax.__version__}; {len(runs)} run{'s' * (len(runs) > 1)}",
        runs=shown,
        metrics=sorted({name for one in drawn for name in one["metrics"]}, key=lambda name: (name != "return", name)),
        columns=titles,
        rows=cells,
        speed={run.name: _speed(run.summary) for run in runs if run.summary},
        references=", ".join(f"{name.replace('_', '-')} {value:.2f}" for name, value in references.items()),
        unfinished=", ".join(run.name for run in runs if not run.row),
        missing=_advice([run for run, each in zip(runs, pictures, strict=True) if not each]),
        configuration=_configuration(runs),
        data={
            "runs": [{**look, **one} for look, one in zip(_looks(runs), drawn, strict=True)],
            "references": references,
        },
        plotly=get_plotlyjs(),
    )
    with writing(out):
        out.write_text(text, encoding="utf-8")


def _looks(runs: Sequence[Run]) -> list[dict[str, str]]:
    """Name, colour and line of each run; of one that is called as a method, those of the method."""
    of_name = looks([run.name for run in runs])
    lines = [(run.name, of_name[run.name][0], *DASHES[of_name[run.name][1]]) for run in runs]
    return [{"name": name, "color": to_hex(color), "dash": dash, "css": css} for name, color, dash, css in lines]


def _curves(run: Run) -> dict[str, Any]:
    """Steps, minutes and metrics of a run, a number for each chunk."""
    metrics = {}
    for name in set.intersection(*map(set, run.records)) - NOT_CURVES:
        values = np.array([np.atleast_1d(record[name]) for record in run.records], float)  # [C, seeds]
        ends = [statistics.bootstrap_interval(row, resamples=RESAMPLES) for row in values]
        low, high = np.array(ends).T
        middle = [statistics.interquartile_mean(row) for row in values]
        metrics[name] = {"middle": _short(middle), "low": _short(low), "high": _short(high)}
    steps = [record["env_steps"] for record in run.records]
    return {"steps": steps, "minutes": _short([record["wall_s"] / 60 for record in run.records]), "metrics": metrics}


def _short(values: Any) -> list[float | None]:
    """Numbers of six digits; None, which leaves a gap in a curve, of what is not finite."""
    return [float(f"{value:.6g}") if np.isfinite(value) else None for value in values]


def _speed(summary: Record) -> list[str]:
    """Cells of the table of speed."""
    machine, peak, compiled = summary["machine"], summary.get("peak_mb"), summary.get("compile_s")
    compiling = f"{compiled:.1f}" if compiled else "-"
    memory = f"{peak:,.0f}" if peak else "-"
    where = f"{machine.get('devices', 1)} x {machine['device']}, {machine.get('processor', '')}".removesuffix(", ")
    return [f"{summary['steps_per_s']:,.0f}", compiling, f"{summary['wall_s'] / 60:.1f}", memory, where]


def _pictures(run: Run) -> list[dict[str, str]]:
    """What was drawn of a run, each as data of its own."""
    found = []
    if (path := run.folder / run_folder.VIDEO).is_file():
        still = io.BytesIO()
        try:
            with Image.open(path) as video:
                video.convert("RGB").save(still, "PNG")
        except OSError:
            raise UserError(f"runs: {str(path)!r} is no picture; remove it, or draw it anew") from None
        alt = f"An episode of {run.name} in {run.config.env}: what happens, and what is believed of the context."
        data = {"data": _data(path.read_bytes(), "gif"), "still": _data(still.getvalue(), "png")}
        found.append({**data, "alt": alt, "caption": "an episode"})
    if (path := run.folder / run_folder.BELIEFS).is_file():
        alt = f"The belief of {run.name} in {run.config.env} over an episode, and by its principal components."
        data = {"data": _data(path.read_bytes(), "png"), "still": ""}
        found.append({**data, "alt": alt, "caption": "its belief"})
    return found


def _data(content: bytes, kind: str) -> str:
    """The address of a picture that is its content."""
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def _advice(runs: Sequence[Run]) -> str:
    """How to draw what is missing."""
    if not runs:
        return ""
    folder = shlex.quote(str(runs[0].folder))
    drawing = f"make video RUN={folder} and make beliefs RUN={folder}"
    none = f"Nothing is drawn yet of {', '.join(run.name for run in runs)}."
    return f"{none} Where there is something to draw, {drawing} do it, and the next report has it."


def _configuration(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Fields in which runs differ, and those that all have in common."""
    fields = [{name: value for name, value, _ in rules.fields(run.config)} for run in runs]
    names = list(dict.fromkeys(name for each in fields for name in each))
    values = {name: [str(each.get(name, "-")) for each in fields] for name in names}
    differ = {name: row for name, row in values.items() if len(set(row)) > 1}
    same = {name: row for name, row in values.items() if name not in differ}
    parts = [{"title": "Fields that differ", "fields": differ, "open": True}] if differ else []
    return [*parts, {"title": "All others" if differ else "All fields", "fields": same, "open": False}]
