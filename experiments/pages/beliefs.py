"""The table of what beliefs know that the bench has measured."""

import json
from pathlib import Path

from experiments.pages import blocks

NAMES = {"filter": "particle filter", "filter_told": "particle filter, told of switches"}


def table(path: Path) -> str:
    """A row for each measurement in a file of `experiments.beliefs.bench`, all of one environment."""
    variants = json.loads(path.read_text())["variants"]
    steps = ", ".join(map(str, variants[0]["since"]))
    header = ["belief", "settings", "updates", f"cm from the itch {steps} steps after a switch", "limb explained"]
    rows = []
    for variant in variants:
        is_filter = variant["method"] in NAMES
        rows.append(
            [
                NAMES.get(variant["method"], f"`{variant['method']}`"),
                "" if is_filter else f"`{' '.join(variant['set'])}`",
                "" if is_filter else f"{variant['updates']:,}",
                " ".join(f"{error:.1f}" for error in variant["error"]),
                " ".join(f"{explained[0]:.2f}" for explained in variant["explained"]),
            ]
        )
    return blocks.table(header, rows)
