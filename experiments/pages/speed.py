"""docs/speed.md, from `results/benchmark/*.json` and `results/ENV/bench.jsonl`.

The prose is in `results/benchmark/notes.md`, a template of `str.format`:

- `{gridworld[growth][256][ratio]:.1f}` is a number of results/benchmark/gridworld.json, where parts that are lists are
  indexed by the number of environments or seeds, and `ratio` is our speed over that of PyTorch;
- `{report[gridworld]}` is the report that the command writes of it;
- `{gpu[h100][tests]}` is a value of the file `gpu/h100.json`;
- `{bench[gridworld]}` is the table of results/gridworld/bench.jsonl, `{rows[gridworld][0][steps_per_s]:,.0f}` a number.
"""

import json
from pathlib import Path
from typing import Any

from experiments.pages.blocks import table
from experiments.versus_torch.report import report

Record = dict[str, Any]

NOTICE = "<!-- Written by `make results` from results/ and results/benchmark/notes.md; change those. -->\n\n"


def page(root: Path) -> str:
    """The text of docs/speed.md.

    Args:
        root: the folder `results`.
    """
    files = comparisons(root)
    rows = {
        path.parent.name: [json.loads(line) for line in path.read_text().splitlines()]
        for path in sorted(root.glob("*/bench.jsonl"))
    }
    parts = {
        "report": {name: _report(root / "benchmark" / f"{name}.json") for name in files},
        "bench": {name: bench(lines) for name, lines in rows.items()},
        "rows": rows,
        "gpu": {path.stem: json.loads(path.read_text()) for path in (root / "benchmark" / "gpu").glob("*.json")},
    }
    template = (root / "benchmark" / "notes.md").read_text()
    return NOTICE + template.format_map(files | parts).strip() + "\n"


def comparisons(root: Path) -> dict[str, Record]:
    """Environment -> its comparison with PyTorch, as `indexed` has it.

    Args:
        root: the folder `results`.
    """
    paths = sorted((root / "benchmark").glob("*.json"))
    return {path.stem: indexed(json.loads(path.read_text())) for path in paths}


def indexed(file: Record) -> Record:
    """A comparison with PyTorch, with `ratio`, and its lists indexed by what they count."""
    parts = dict(file)
    if "customary" in file:
        ours, theirs = (file["customary"][name]["steps_per_s"]["median"] for name in ("ours", "theirs"))
        parts["customary"] = file["customary"] | {"ratio": ours / theirs}
    if "growth" in file:
        timed = [row for row in file["growth"] if row["theirs"]]
        parts["growth"] = {row["num_envs"]: row | {"ratio": row["ours"] / row["theirs"]} for row in timed}
    if "seeds" in file:
        parts["seeds"] = {row["seeds"]: row for row in file["seeds"]}
    return parts


def with_preset(files: dict[str, Record]) -> dict[str, float]:
    """Environment -> our steps a second over those of PyTorch, at the number of environments of the preset.

    Args:
        files: the result of `comparisons`.
    """
    timed = {name: file for name, file in files.items() if file["config"]["num_envs"] in file.get("growth", {})}
    return {name: file["growth"][file["config"]["num_envs"]]["ratio"] for name, file in timed.items()}


def verdict(files: dict[str, Record]) -> str:
    """Where PyTorch trains faster: a sentence for each environment.

    Args:
        files: the result of `comparisons`.
    """
    sentences = []
    for name, file in files.items():
        slower = [f"{size:,} ({row['ratio']:.2f})" for size, row in file.get("growth", {}).items() if row["ratio"] < 1]
        if slower:
            sentences.append(f"On `{name}` PyTorch is faster with {' and '.join(slower)} environments.")
    return " ".join(sentences) or "PyTorch was not faster at any number of environments."


def bench(rows: list[Record]) -> str:
    """The table of a `bench.jsonl`: one row for each number of environments."""
    phases = list(rows[0]["phases"])
    header = ["environments a seed", "steps/s", "compile, cold / warm", "peak memory"]
    cells = []
    for row in rows:
        total = sum(phase["us"] for phase in row["phases"].values())
        shares = [f"{row['phases'][phase]['us'] / total:.0%}" for phase in phases]
        compiled = f"{row['compile_s']:.1f} s / {row['warm_compile_s']:.1f} s"
        counts = [f"{row['num_envs']:,}", f"{row['steps_per_s']:,.0f}"]
        cells.append([*counts, compiled, f"{row['peak_mb'] / 1000:.2f} GB", *shares])
    return table([*header, *phases], cells)


def _report(path: Path) -> str:
    """The report of a comparison, without its title."""
    return "\n".join(report(json.loads(path.read_text()))[2:]).strip()
