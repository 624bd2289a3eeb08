"""Write the pages, and the parts of pages, that are generated from JSON or code.

python -m experiments.pages.write
"""

import contextlib
import dataclasses
import importlib
import json
from pathlib import Path

from dynamite_jax import config as configs
from dynamite_jax import presets
from dynamite_jax.cli import COMMANDS
from experiments.pages import beliefs, blocks, results, schema, speed

ROOT = Path(__file__).parents[2]

# Command -> the module whose `Arguments` its command line is read into.
MODULES = {
    **{name: module for name, (module, _) in COMMANDS.items()},
    "versus-torch": "experiments.versus_torch.benchmark",
    "bayes-optimal": "experiments.studies.bayes_optimal",
    "time-to-score": "experiments.studies.time_to_score",
    "beliefs-bench": "experiments.beliefs.bench",
}

# Column of the table of presets -> an environment that has it.
PRESETS = {
    "`gridworld`, `gridworld_ring8`": "gridworld",
    "`gridworld_ring4`": "gridworld_ring4",
    "`point_robot`": "point_robot",
    "`reacher`": "reacher",
    "`halfcheetah_vel`, `_vel_wind`": "halfcheetah_vel",
    "`halfcheetah_dir`": "halfcheetah_dir",
    "`halfcheetah_wind`, `_dir_wind`": "halfcheetah_wind",
    "`scratch_itch`": "scratch_itch",
    "`probe_*`": "probe_match",
}


def pages(root: Path = ROOT) -> dict[Path, str]:
    """Path of each page -> the text it must have.

    Args:
        root: of the repository; results and pages are read from there.
    """
    compared = speed.comparisons(root / "results")
    filled = {
        Path("README.md"): {"summary": _summary(root, compared)},
        Path("docs/configuration.md"): configuration(),
        Path("docs/commands.md"): {name: _flags(module) for name, module in MODULES.items()},
        Path("docs/offline.md"): {
            "offline": results.offline(root / "results"),
            "speed": results.offline_speed(root / "results"),
        },
        Path("docs/environments.md"): {"beliefs": beliefs.table(root / "results" / "scratch_itch" / "beliefs.json")},
        Path("docs/tuning.md"): {"searches": searches(root / "dynamite_jax" / "tuned")},
    }
    texts = {root / path: blocks.fill((root / path).read_text(), parts) for path, parts in filled.items()}
    texts[root / "docs" / "results.md"] = results.page(root / "results")
    texts[root / "docs" / "speed.md"] = speed.page(root / "results")
    return texts


def configuration() -> dict[str, str]:
    """Blocks of docs/configuration.md: the fields of the config, those of each section, and the presets."""
    hints = configs.Config.__dataclass_fields__
    sections = {name: field for name, field in hints.items() if dataclasses.is_dataclass(schema.default(field))}
    tables = {name: schema.fields(type(schema.default(field)), f"{name}.") for name, field in sections.items()}
    return {"run": schema.fields(configs.Config), **tables, "presets": _presets()}


def searches(folder: Path) -> str:
    """The table of the presets that `make tune` chose.

    Args:
        folder: of the records that `make tune` wrote.
    """
    records = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    if not records:
        return "None at present: all presets are built in."
    names = list(dict.fromkeys(name for record in records for name in record["changes"]))
    rows = []
    for record in records:
        scores = (final["scores"][-1] for final in record["finalists"])
        finalists = ", ".join("-" if value is None else f"{value:.2f}" for value in scores)
        steps = f"{', '.join(f'{ended / 1e6:.3g}' for ended in record['rungs'])} M / {record['steps'][-1] / 1e6:g} M"
        seconds = f"{record['seconds']['training']:,.0f}"
        chosen = [f"{record['changes'][name]:.3g}" if name in record["changes"] else "-" for name in names]
        budget = [str(record["trials"]), steps, seconds]
        rows.append([f"`{record['env']}`", f"`{record['method']}`", *budget, finalists, *chosen])
    header = ["environment", "method", "trials", "steps, trials / finalist", "seconds", "scores of the finalists"]
    return blocks.table([*header, *(f"`{name}`" for name in names)], rows)


def main() -> None:
    """Write the pages that have changed, and print their paths."""
    for path, text in pages().items():
        if not path.is_file() or path.read_text() != text:
            path.write_text(text)
            print(f"wrote {path.relative_to(ROOT)}")


def _summary(root: Path, compared: dict[str, speed.Record]) -> str:
    scores = results.summary(root / "results", speed.with_preset(compared))
    return f"{scores}\n\n{results.rivals(root / 'results')} {speed.verdict(compared)}"


def _flags(module: str) -> str:
    return schema.flags(importlib.import_module(module).Arguments)


def _presets() -> str:
    """Fields in which a preset of `dynamite` differs from the defaults above."""
    start = configs.Config(env="", method="dynamite", seeds=4)
    with contextlib.chdir(ROOT / "docs"):  # away from runs/tuned, where the presets of whoever runs this are
        chosen = {title: presets.default(env, "dynamite") for title, env in PRESETS.items()}
    values = {title: _values(dataclasses.replace(config, env="")) for title, config in chosen.items()}
    base = _values(start)
    differing = [name for name in base if any(fields[name] != base[name] for fields in values.values())]
    rows = [[f"`{name}`", *(schema.shown(fields[name]) for fields in values.values())] for name in differing]
    return blocks.table(["field", *values], rows)


def _values(config: configs.Config) -> dict[str, object]:
    flat: dict[str, object] = {}
    for name, value in dataclasses.asdict(config).items():
        flat |= {f"{name}.{inner}": kept for inner, kept in value.items()} if isinstance(value, dict) else {name: value}
    return flat


if __name__ == "__main__":
    main()
