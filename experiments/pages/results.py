"""docs/results.md and the summary of README.md, from `results/ENV/*.json`.

The prose is in `results/ENV/notes.md`, a template of `str.format`: `{table[dynamite][score][iqm]:.3f}` is a number of
`results/ENV/table.json`, and these are made of a file NAME.json:

- `{setup[NAME]}`: seeds, steps, machine, versions and commit;
- `{markdown[NAME]}`: the table;
- `{verdict[NAME]}`: which methods the 95 % intervals separate from `dynamite`, at the end and while training, and which
  mean is the highest.
"""

import json
from collections import Counter
from pathlib import Path
from typing import Any

from dynamite_jax.analysis import columns
from experiments.pages.blocks import table

Record = dict[str, Any]

# Order of the sections and of the summary; environments that are not named here follow in alphabetical order.
ORDER = (
    "gridworld",
    "gridworld_ring8",
    "point_robot",
    "halfcheetah_vel",
    "halfcheetah_dir",
    "halfcheetah_wind",
    "reacher",
    "scratch_itch",
)
METHODS = ("dynamite", "varibad", "secbad", "contrabar", "rl2", "task_inference", "oracle", "markov", "borel")
REFERENCES = ("task_inference", "oracle", "markov")
SPEEDS = "methods_speed"  # stem of what `make bench METHODS=` measured, all methods in turn
SIZE = ("seeds", "seed", "steps", "eval_episodes")  # fields of a config that say how long a run is, not how fast
MARK = "\\*"  # of rows that no longer hold
WITHOUT_NOTES = "## {env}\n\n{setup[table]}\n\n{markdown[table]}\n\n{verdict[table]}\n"
INTRODUCTION = """\
<!-- Written by `make results` from results/ENV/*.json and results/ENV/notes.md; change those. -->

# Results

No number on this page is a number of a paper: every one comes from a run of this code, and the JSON beside each table
holds it for every seed. Returns are those of deterministic policies on fresh episodes, the same for all methods.
Tables show the interquartile mean over seeds and its 95 % bootstrap interval; with four seeds the interval is little
more than the least and the greatest of them. The score is the fraction of the exact Bayes-optimal return where that
is known (gridworld), else (return - `markov`) / (`oracle` - `markov`), with the interquartile means of these two.
*Score while training* is the mean over all chunks of training, of policies that still explore, on the same scale;
*steps to* a score are those until a chunk of training has it, the median over seeds and only as fine as a chunk;
*minutes to* it are these steps for the seeds of the measurement of speed side by side, without compiling. Boundaries
count on the very step. *Regret of the discount* is that of the best policy for the discount at the end of training.
`oracle` is given the true context, `markov` has no memory: the two frame what a belief can be worth.
`task_inference`, a reference too, is given the context in training alone, as what its belief shall say.
How presets were chosen, and with what budget, is in [Tuning](tuning.md).

"""


def environments(root: Path) -> dict[str, Record]:
    """The results of each environment, in the order of the page.

    Args:
        root: the folder `results`.

    Returns:
        Name of the environment -> contents of its JSON files by their stems, of tables only their `runs`; `files` holds
        the complete contents.
    """
    available = {path.parent.name for path in root.glob("*/table.json")}
    ordered = [name for name in ORDER if name in available] + sorted(available - set(ORDER))
    return {name: _read(root / name) for name in ordered}


def page(root: Path) -> str:
    """The text of docs/results.md.

    Args:
        root: the folder `results`.
    """
    sections = []
    for name, record in environments(root).items():
        notes = root / name / "notes.md"
        template = notes.read_text() if notes.is_file() else WITHOUT_NOTES
        tables = {stem: file for stem, file in record["files"].items() if "runs" in file}
        parts = {
            "setup": {stem: setup(file) for stem, file in tables.items()},
            "markdown": {stem: markdown(file["runs"]) for stem, file in tables.items()},
            "verdict": {stem: verdict(file["runs"]) for stem, file in tables.items()},
        }
        sections.append(template.format_map({**record, **parts, "env": name}).strip())
    return INTRODUCTION + "\n\n".join([standing(root), *sections]) + "\n"


def standing(root: Path) -> str:
    """Where `dynamite` stands against every rival that is not given the context, by the 95 % intervals.

    Args:
        root: the folder `results`.
    """
    rivals = [method for method in METHODS if method not in ("dynamite", "borel", *REFERENCES)]
    rows, counts = [], {quantity: Counter() for quantity in ("end", "training")}
    for name, record in environments(root).items():
        runs, cells = record["table"], []
        for rival in rivals:
            if rival not in runs:
                cells.append("-")
                continue
            places = {"end": _against(runs, rival)}
            if all("auc" in runs[method] for method in ("dynamite", rival)):
                places["training"] = _against({method: runs[method]["auc"] for method in ("dynamite", rival)}, rival)
            for quantity, place in places.items():
                counts[quantity][place] += 1
            stale = any(runs[method].get("stale") for method in ("dynamite", rival))
            cells.append(", ".join([places["end"], places.get("training", "?")]) + MARK * stale)
        rows.append([f"`{name}`", *cells])
    sums = {
        quantity: f"above in {count['above']}, below in {count['below']} and not told apart in {count['=']}"
        for quantity, count in counts.items()
    }
    text = [
        "## Where dynamite stands",
        "`dynamite` against each method that is not given the context, at the end and, behind the comma, while "
        "training: above or below beyond the 95 % intervals, or = where they overlap.",
        table(["", *(f"`{rival}`" for rival in rivals)], rows),
        f"At the end it is {sums['end']}; while training {sums['training']}.",
    ]
    if any(MARK in cell for row in rows for cell in row):
        text.append(f"{MARK} of rows made by earlier code or with another config.")
    return "\n\n".join(text)


def offline(root: Path) -> str:
    """Tables of methods that learn from recorded episodes, a section for each environment and set.

    `table.json` is the main one of an environment; files beside it, as `expert.json`, are of other sets. Notes on one
    are in a file of its stem, `notes.md` for the main one.

    Args:
        root: the folder `results`.
    """
    sections = []
    for path in sorted(root.glob("*/offline/*.json"), key=lambda path: (path.parts[-3], path.stem != "table")):
        name, file, main = path.parts[-3], json.loads(path.read_text()), path.stem == "table"
        notes = path.with_name("notes.md") if main else path.with_suffix(".md")
        parts = [setup(file, "recorded steps"), markdown(file["runs"]), verdict(file["runs"])]
        parts += [notes.read_text().strip()] if notes.is_file() else []
        sections.append("\n\n".join([f"### {name}" if main else f"### {name}, {path.stem} episodes", *parts]))
    return "\n\n".join(sections)


def offline_speed(root: Path) -> str:
    """Optimiser steps a second of offline learners beside PyTorch.

    Args:
        root: the folder `results`.
    """
    file = json.loads((root / "benchmark" / "learners" / "speed.json").read_text())
    rows = []
    for case, row in file["cases"].items():
        ours, theirs, four = (row[name] for name in ("ours", "theirs", "ours_4_seeds"))
        units = " x ".join(map(str, row["config"]["network"]["value_hidden"]))
        cells = [f"{r['median']:,.0f} ({r['least']:,.0f} - {r['greatest']:,.0f})" for r in (ours, theirs, four)]
        share = f"{ours['median'] / row['floor']:.0%}, {theirs['median'] / row['floor']:.0%}"
        rows.append([f"{case}, {units}", *cells, f"{ours['median'] / theirs['median']:.2f}", share])
    machine, versions = file["machine"], ", ".join(f"{name} {number}" for name, number in file["versions"].items())
    head = [
        "",
        "dynamite_jax",
        "PyTorch",
        "dynamite_jax, 4 seeds at once",
        "ratio of one",
        "of the floor: ours, PyTorch",
    ]
    sentence = f"{machine['cores']} cores of {machine['processor']}; {versions}; commit {file['commit'][:10]}."
    return f"{sentence}\n\n{table(head, rows)}"


def summary(root: Path, speed: dict[str, float]) -> str:
    """The summary of README.md: environments by those methods that have results, the score of each.

    Bold is the highest mean of the methods that are not given the context, where 95 % intervals separate both it and
    `oracle` from `markov`.

    Args:
        root: the folder `results`.
        speed: environment -> steps a second of our training over those of PyTorch, with the preset.
    """
    rows, tables = [], {name: record["table"] for name, record in environments(root).items()}
    methods = [method for method in METHODS if any(method in runs for runs in tables.values())]
    for name, runs in tables.items():
        scores = {method: runs[method]["score"]["iqm"] for method in methods if method in runs}
        cells = [f"{scores[method]:.3f}" if method in scores else "-" for method in methods]
        best = _best(runs)
        if _above(runs, best, "markov") and _above(runs, "oracle", "markov"):
            cells = [f"**{cell}**" if method == best else cell for method, cell in zip(methods, cells, strict=True)]
        rows.append([f"`{name}`", *cells, f"{speed[name]:.1f}" if name in speed else "-"])
    return table(["", *(f"`{method}`" for method in methods), "speed / PyTorch"], rows)


def rivals(root: Path) -> str:
    """Where another method than `dynamite` has the highest mean: a sentence.

    Args:
        root: the folder `results`.
    """
    ahead: dict[str, list[str]] = {}
    for name, record in environments(root).items():
        best = _best(record["table"])
        if best != "dynamite":
            apart = "apart" if _above(record["table"], best, "dynamite") else "overlap"
            ahead.setdefault(best, []).append(f"`{name}` (intervals {apart})")
    parts = [f"`{method}` on {' and '.join(names)}" for method, names in ahead.items()]
    return f"A higher mean than `dynamite`: {'; '.join(parts)}." if parts else "No mean is higher than `dynamite`'s."


def setup(file: Record, unit: str = "environment steps") -> str:
    """How a table was made: one sentence or two.

    Args:
        file: a table, as `make table` writes it.
        unit: what its `env_steps` are.
    """
    runs = file["runs"]
    first = next(iter(runs.values()))
    steps = sorted({row["env_steps"] for row in runs.values()})
    steps = " to ".join(f"{value / 1e6:.1f} M" for value in dict.fromkeys((steps[0], steps[-1])))
    minutes = sum(row["wall_s"] for row in runs.values()) / 60
    commits = list(dict.fromkeys(row["commit"][:10] for row in runs.values() if row["commit"]))
    parts = [f"{file['seeds']} seeds of {steps} {unit} each, root seed {first['seed']}"]
    made_on: dict[str, list[str]] = {}
    for name, row in runs.items():
        if "machine" in row:
            made_on.setdefault(_machine(row), []).append(name)
    places = sorted(made_on, key=lambda where: -len(made_on[where]))
    parts += places[:1]  # of most rows
    parts += [f"{', '.join(f'`{name}`' for name in made_on[where])} on {where}" for where in places[1:]]
    parts += [f"{minutes:.0f} minutes in all", f"commit {', '.join(commits)}"]
    sentence = "; ".join(parts) + "."
    unnamed = [name for name, row in runs.items() if "machine" not in row]
    if not unnamed:
        return sentence
    if not made_on:
        return f"{sentence} The file does not name machine and versions."
    return f"{sentence} The file does not name machine and versions of {', '.join(f'`{name}`' for name in unnamed)}."


def _machine(row: Record) -> str:
    """Where a row was made, and with what."""
    machine, versions = row["machine"], row["versions"]
    processor = f"{machine['cores']} cores of {machine['processor']}"
    device = processor if machine["device"] == "cpu" else f"{machine['device']}, {processor}"
    return f"{device}, jax {versions['jax']}, Python {versions['python']}"


def markdown(runs: dict[str, Record]) -> str:
    """The rows of a table, or methods beside each other where rows are named `METHOD p=P`."""
    if all(" p=" in name for name in runs):
        return _by_p(runs)
    titles, cells = columns.of(runs)
    names = {
        name: (f"`{name}`" if name in METHODS else name) + MARK * row.get("stale", False) for name, row in runs.items()
    }
    text = table(["", *titles], [[names[name], *cells[name]] for name in runs])
    if not any(row.get("stale") for row in runs.values()):
        return text
    return f"{text}\n\n{MARK} made by earlier code or with another config."


def verdict(runs: dict[str, Record]) -> str:
    """Which rows the intervals separate from `dynamite`, and the highest mean of those that are not references."""
    base = "dynamite" if "dynamite" in runs else next(iter(runs))
    sentences = [f"By their 95 % intervals of the return, `{base}` is {_place(runs, base)}."]
    if all("auc" in row for row in runs.values()):
        while_training = {name: row["auc"] for name, row in runs.items()}
        sentences += [f"While training it is {_place(while_training, base)}."]
    sentences += [f"The highest mean of those that are not given the context is that of `{_best(runs)}`."]
    return " ".join(sentences)


def _place(summaries: dict[str, Record], base: str) -> str:
    """Which rows the intervals show below and above that of `base`, and which overlap it."""
    others: dict[str, list[str]] = {"above": [], "below": [], "=": []}
    for name in summaries:
        if name != base:
            others[_against(summaries, name, base)].append(name)
    words = {"above": "above", "below": "below", "=": "not told apart from"}
    return "; ".join(
        f"{words[place]} {', '.join(f'`{name}`' for name in names)}" for place, names in others.items() if names
    )


def _against(summaries: dict[str, Record], rival: str, base: str = "dynamite") -> str:
    """Whether the interval of `base` is above or below that of a rival, or overlaps it."""
    if _above(summaries, base, rival):
        return "above"
    return "below" if _above(summaries, rival, base) else "="


def _best(runs: dict[str, Record]) -> str:
    """The row with the highest mean return.

    Those that are given the context, if only in training, or remember nothing, are no rivals.
    """
    return max((name for name in runs if name not in REFERENCES), key=lambda name: runs[name]["iqm"])


def _above(runs: dict[str, Record], name: str, other: str) -> bool:
    """Whether the interval of one row lies above that of another."""
    return runs[name]["ci95"][0] > runs[other]["ci95"][1]


def _by_p(runs: dict[str, Record]) -> str:
    """Score, or return where there is none, by p and method."""
    names = [tuple(name.split(" p=")) for name in runs]
    methods, values = (list(dict.fromkeys(column)) for column in zip(*names, strict=True))
    rows = []
    for p in values:
        cells = [runs[f"{method} p={p}"] for method in methods]
        rows.append([p, *(columns.interval(row.get("score", row), 3) for row in cells)])
    return table(["p", *(f"`{method}`" for method in methods)], rows)


def _read(folder: Path) -> Record:
    files = {path.stem: json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))}
    if {"table", SPEEDS} <= files.keys():
        _add_minutes(files["table"]["runs"], files[SPEEDS])
    return {"files": files, **{stem: file.get("runs", file) for stem, file in files.items()}}


def _add_minutes(runs: dict[str, Record], speeds: Record) -> None:
    """Add `minutes_to` to the rows that know `steps_to` and whose speed was measured with the config that they have."""
    for name, row in runs.items():
        measured = speeds["configs"].get(name, {}) | {field: row.get("config", {}).get(field) for field in SIZE}
        if "steps_to" in row and measured == row.get("config"):
            minutes = speeds["seeds"] / speeds["steps_per_s"][name]["median"] / 60
            medians = {level: steps["median"] for level, steps in row["steps_to"].items()}
            row["minutes_to"] = {level: steps and steps * minutes for level, steps in medians.items()}
