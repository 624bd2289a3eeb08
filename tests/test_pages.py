"""The documentation agrees with JSON and code, and its links are not broken."""

import dataclasses
import json
import re
import tomllib
from pathlib import Path

import pytest

from dynamite_jax import presets
from dynamite_jax.config import VAEConfig
from experiments.pages import blocks, results, schema, site, speed, write

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]


def _summarised(iqm: float, low: float, high: float) -> dict:
    return {"iqm": iqm, "ci95": [low, high], "per_seed": [low, high]}


def _row(iqm: float, low: float, high: float, **more) -> dict:
    score = _summarised(iqm / 10, low / 10, high / 10)
    row = {"env_steps": 2_000_000, "wall_s": 90.0, "commit": "0123456789abcdef", "seed": 1, "tuning_trials": 8}
    return {**_summarised(iqm, low, high), "score": score, **row, **more}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of results: on `reef` another method is ahead, on `fog` the intervals of the references overlap."""
    reef = {
        "dynamite": _row(8, 7, 8.5),
        "rl2": _row(9, 8.6, 9.5),
        "varibad": _row(6, 5, 7.5),
        "secbad": _row(3, 2, 4),
        "task_inference": _row(9.5, 9.2, 9.7),
        "oracle": _row(10, 9.8, 10.1),
        "markov": _row(1, 0, 1.5),
    }
    fog = {"dynamite": _row(8, 7, 9), "oracle": _row(10, 0, 11), "markov": _row(1, 0.5, 1.5)}
    for name, runs in (("reef", reef), ("fog", fog)):
        (tmp_path / name).mkdir()
        record = {"env": name, "env_options": [], "seeds": 4, "runs": runs}
        (tmp_path / name / "table.json").write_text(json.dumps(record))
    return tmp_path


def test_pages_are_up_to_date():
    stale = [path.relative_to(ROOT).as_posix() for path, text in write.pages().items() if path.read_text() != text]
    assert not stale, f"run `make results`: {', '.join(stale)}"


def test_a_changed_number_changes_the_page(folder):
    before = results.page(folder), results.summary(folder, {})
    path = folder / "reef" / "table.json"
    path.write_text(path.read_text().replace('"iqm": 0.8', '"iqm": 0.77'))
    after = results.page(folder), results.summary(folder, {})
    assert all("0.770" in new and "0.770" not in old for old, new in zip(before, after, strict=True))


def test_verdict_follows_the_intervals(folder):
    runs = results.environments(folder)["reef"]["table"]
    verdict = results.verdict(runs)
    below = "`rl2`, `task_inference`, `oracle`"
    assert f"`dynamite` is above `secbad`, `markov`; below {below}; not told apart from `varibad`." in verdict
    assert verdict.endswith("not given the context is that of `rl2`.")


def test_verdict_also_follows_the_intervals_while_training(folder):
    runs = results.environments(folder)["reef"]["table"]
    assert "While training" not in results.verdict(runs)
    areas = {"dynamite": (5, 4.5, 5.5), "rl2": (4, 3, 4.4), "oracle": (7, 6, 8)}
    runs = {name: runs[name] | {"auc": _summarised(*area)} for name, area in areas.items()}
    assert "While training it is above `rl2`; below `oracle`." in results.verdict(runs)


def test_the_overview_compares_dynamite_with_each_rival(folder):
    path = folder / "reef" / "table.json"
    record = json.loads(path.read_text())
    for name, area in {"dynamite": (5, 4.5, 5.5), "rl2": (4, 3, 4.4), "secbad": (5, 4, 6)}.items():
        record["runs"][name]["auc"] = _summarised(*area)
    record["runs"]["varibad"]["stale"] = True
    path.write_text(json.dumps(record))
    text = results.page(folder)
    head, _, *rows = text[text.index("## Where dynamite stands") :].split("\n\n")[2].splitlines()
    assert head == "|  | `varibad` | `secbad` | `contrabar` | `rl2` |"
    assert rows == ["| `fog` | - | - | - | - |", "| `reef` | =, ?\\* | above, = | - | below, above |"]
    assert (
        "At the end it is above in 1, below in 1 and not told apart in 1; while training above in 1, below in 0" in text
    )


def test_minutes_are_steps_over_the_speed_measured_with_the_config_of_the_row(folder):
    path = folder / "reef" / "table.json"
    record = json.loads(path.read_text())
    steps_to = {"0.5": {"median": 1_200_000, "per_seed": []}, "0.8": {"median": 2_400_000, "per_seed": []}}
    steps_to["0.9"] = {"median": None, "per_seed": []}
    config = {"seeds": 10, "seed": 1, "steps": 8_000_000, "eval_episodes": 512, "ppo": {"lr": 0.1}}
    for name in ("dynamite", "rl2"):
        record["runs"][name] |= {"steps_to": steps_to, "config": config}
    path.write_text(json.dumps(record))
    speeds = {"seeds": 4, "steps_per_s": {name: {"median": 40_000.0} for name in ("dynamite", "rl2")}}
    measured = config | {"seeds": 4, "steps": 4_000_000}
    speeds["configs"] = {"dynamite": measured, "rl2": measured | {"ppo": {"lr": 0.2}}}
    (folder / "reef" / "methods_speed.json").write_text(json.dumps(speeds))
    runs = results.environments(folder)["reef"]["table"]
    assert runs["dynamite"]["minutes_to"] == {"0.5": pytest.approx(2.0), "0.8": pytest.approx(4.0), "0.9": None}
    assert "minutes_to" not in runs["rl2"]
    lines = results.markdown(runs).splitlines()
    assert "| M steps to 0.5 / 0.8 / 0.9 | minutes to 0.5 / 0.8 / 0.9 |" in lines[0]
    assert "| 1.20 / 2.40 / - | 2.0 / 4.0 / - |" in lines[2] and "| 1.20 / 2.40 / - | - |" in lines[3]


def test_summary_marks_the_best_only_where_the_scale_means_something(folder):
    lines = {line.split("`")[1]: line for line in results.summary(folder, {"reef": 2.04}).splitlines()[2:]}
    assert lines["reef"].count("**") == 2 and "**0.900**" in lines["reef"] and lines["reef"].endswith("| 2.0 |")
    assert "**" not in lines["fog"] and lines["fog"].endswith("| - |")
    header = results.summary(folder, {}).splitlines()[0]
    methods = ("dynamite", "varibad", "secbad", "rl2", "task_inference", "oracle", "markov")  # those with results
    assert header == f"|  | {' | '.join(f'`{method}`' for method in methods)} | speed / PyTorch |"
    assert results.rivals(folder) == "A higher mean than `dynamite`: `rl2` on `reef` (intervals apart)."


def test_notes_take_numbers_from_json(folder):
    (folder / "reef" / "notes.md").write_text("## {env}\n\n{table[rl2][score][ci95][1]:.1%} in {setup[table]}\n")
    page = results.page(folder)
    assert (
        "95.0% in 4 seeds of 2.0 M environment steps each, root seed 1; 10 minutes in all; commit 0123456789." in page
    )
    (folder / "reef" / "notes.md").write_text("{table[gone][score]}")
    with pytest.raises(KeyError):
        results.page(folder)


def test_rows_that_no_longer_hold_are_marked(folder):
    runs = results.environments(folder)["reef"]["table"]
    assert "earlier code" not in results.markdown(runs)
    lines = results.markdown(runs | {"rl2": {**runs["rl2"], "stale": True}}).splitlines()
    assert lines[3].startswith("| `rl2`\\* |") and lines[4].startswith("| `varibad` |")
    assert lines[-1].startswith("\\* made by earlier code")


def test_a_sweep_is_methods_by_p():
    runs = {f"{method} p={p}": _row(p * 10 + i, 0, 9) for p in (0.0, 0.5) for i, method in enumerate(("a", "b"))}
    assert results.markdown(runs).splitlines()[2:] == [
        "| 0.0 | 0.000 [0.000, 0.900] | 0.100 [0.000, 0.900] |",
        "| 0.5 | 0.500 [0.000, 0.900] | 0.600 [0.000, 0.900] |",
    ]


def test_speed_says_where_pytorch_is_faster():
    rows = [{"num_envs": 16, "ours": 30.0, "theirs": 10.0}, {"num_envs": 1024, "ours": 9.0, "theirs": 10.0}]
    files = {"reef": speed.indexed({"config": {"num_envs": 16}, "growth": rows})}
    assert speed.with_preset(files) == {"reef": 3.0}
    assert speed.verdict(files) == "On `reef` PyTorch is faster with 1,024 (0.90) environments."
    assert "not faster" in speed.verdict({"reef": speed.indexed({"growth": rows[:1]})})


def test_blocks_are_filled_and_nothing_else_changes():
    page = "before\n<!-- begin one -->\nold\n<!-- end one -->\nafter\n"
    assert blocks.fill(page, {"one": "new\n"}) == page.replace("old", "new")
    for wrong in ({}, {"two": ""}, {"one": "", "two": ""}):
        with pytest.raises(ValueError, match="blocks"):
            blocks.fill(page, wrong)
    assert blocks.table(["a"], [["x|y"]]).splitlines()[-1] == "| x\\|y |"


@dataclasses.dataclass(frozen=True)
class Base:
    """A field of a base class counts too."""

    rate: float = 0.25
    """How fast, in m/s;
    over two lines."""


@dataclasses.dataclass(frozen=True)
class Flags(Base):
    """What a command line is read into."""

    run: Path = dataclasses.field(kw_only=True)
    """Where it is."""
    very_loud: bool = False
    """Say more."""


@dataclasses.dataclass(frozen=True)
class Undescribed(Base):
    """A field without a docstring."""

    names: tuple[str, ...] = ()


def test_flags_come_from_the_dataclass():
    assert schema.flags(Flags).splitlines()[2:] == [
        "| `--rate` | `0.25` | How fast, in m/s; over two lines. |",
        "| `--run` | required | Where it is. |",
        "| `--very-loud`, `--no-very-loud` | off | Say more. |",
    ]
    with pytest.raises(KeyError, match="names"):
        schema.flags(Undescribed)


def test_fields_say_what_they_must_be():
    rows = {
        line.split("|")[1].strip(" `"): line.split("|")[3].strip()
        for line in schema.fields(VAEConfig, "vae.").splitlines()
    }
    assert rows["vae.lr"] == "float, > 0"
    assert rows["vae.epochs"] == "int, 1 or more"
    assert rows["vae.session_mask"] == "on or off"
    assert rows["vae.boundaries"] == "`labels`, `predicted`"


def test_presets_are_those_that_ship(tmp_path, monkeypatch):
    before = write.configuration()["presets"]
    (tmp_path / "runs" / "tuned").mkdir(parents=True)
    own = {"changes": {"ppo.lr": 0.123}, "trials": 8}
    (tmp_path / "runs" / "tuned" / "gridworld_dynamite.json").write_text(json.dumps(own))
    monkeypatch.chdir(tmp_path)
    assert presets.default("gridworld", "dynamite").ppo.lr == 0.123
    assert write.configuration()["presets"] == before


def test_every_target_of_make_is_documented():
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z-]+):.*?##", makefile, flags=re.MULTILINE)) - {"help"}
    documented = set(re.findall(r"make ([a-z-]+)", (ROOT / "docs" / "commands.md").read_text()))
    assert targets <= documented


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    assert not site.broken(page)


def test_a_broken_link_is_noticed(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("[a](gone.md) ![b](gone.png) `[c](code.md)`\n\n    [d](code.md)\n\n[e](page.md#x) [f](https://g)\n")
    assert site.broken(page) == ["gone.md", "gone.png"]


def test_the_site_holds_what_pages_refer_to(tmp_path):
    root, target = tmp_path / "root", tmp_path / "target"
    for name in ("docs", "results"):
        (root / name).mkdir(parents=True)
    (root / "results" / "a.png").write_bytes(b"picture")
    (root / "NEWS.md").write_text("[start](docs/index.md#top)\n")
    (root / "docs" / "index.md").write_text("![a](../results/a.png) [news](../NEWS.md) `[x](../results/a.png)`\n")
    site.assemble(root, target)
    assert (target / "results" / "a.png").read_bytes() == b"picture"
    assert (target / "NEWS.md").read_text() == "[start](index.md#top)\n"
    assert (target / "index.md").read_text().startswith("![a](results/a.png) [news](NEWS.md)")
    (root / "results" / "a.png").unlink()
    with pytest.raises(FileNotFoundError, match="a.png"):
        site.assemble(root, target)


def test_what_other_hosts_serve_is_noticed(tmp_path):
    (tmp_path / "a.html").write_text('<a href="https://a.b">x</a><link href=assets/x.css><img src="x.png">')
    assert not site.foreign(tmp_path)
    (tmp_path / "b.html").write_text('<script async src="https://a.b/x.js"></script>')
    assert [line.split(":")[0] for line in site.foreign(tmp_path)] == ["b.html"]


def test_the_readme_is_a_page():
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= 120
    assert text.count("![") <= 3


def test_citation_has_the_version_of_the_package():
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text()


@pytest.mark.parametrize("package", ["dynamite_jax", "envs/dynamite_envs", "experiments"])
def test_the_architecture_lists_what_is_there(package):
    section = (ROOT / "docs" / "architecture.md").read_text().split(f"### `{Path(package).name}`")[1].split("\n#")[0]
    listed = re.findall(r"`(\w+)`", "\n".join(line.split("|")[1] for line in section.splitlines() if "|" in line))
    names = {path.stem for path in (ROOT / package).iterdir() if path.suffix == ".py" or any(path.glob("*"))}
    there = {name for name in names if not name.startswith(("_", "."))}
    assert set(listed) == there


def test_pages_of_the_navigation_exist():
    config = tomllib.loads((ROOT / "zensical.toml").read_text())
    listed = {page for entry in config["project"]["nav"] for page in entry.values()}
    assert listed == {page.name for page in (ROOT / "docs").glob("*.md")} | {"CHANGELOG.md"}


def test_sets_of_episodes_have_sections_of_their_own(folder):
    for name, value in (("table", 8), ("expert", 9)):
        (folder / "reef" / "offline").mkdir(exist_ok=True)
        record = {"env": "reef", "env_options": [], "seeds": 4, "runs": {"dynamite": _row(value, 7, 9.5)}}
        (folder / "reef" / "offline" / f"{name}.json").write_text(json.dumps(record))
    (folder / "reef" / "offline" / "notes.md").write_text("Replayed.")
    (folder / "reef" / "offline" / "expert.md").write_text("Of the best.")
    main, expert = results.offline(folder).split("### reef, expert episodes")
    assert main.startswith("### reef\n") and "| 8.00 " in main and main.strip().endswith("Replayed.")
    assert "| 9.00 " in expert and expert.strip().endswith("Of the best.")


def test_offline_speed_is_beside_that_of_pytorch_and_the_floor(tmp_path):
    def spread(value: float) -> dict[str, float]:
        return {"median": value, "least": value - 1, "greatest": value + 1}

    row = {"ours": spread(1200), "theirs": spread(400), "ours_4_seeds": spread(2000), "threads": 1, "floor": 4000.0}
    row["config"] = {"network": {"value_hidden": [64, 64]}}
    machine = {"cores": 2, "processor": "chip"}
    file = {"machine": machine, "versions": {"jax": "1"}, "commit": "0123456789ab", "cases": {"reef iql": row}}
    (tmp_path / "benchmark" / "learners").mkdir(parents=True)
    (tmp_path / "benchmark" / "learners" / "speed.json").write_text(json.dumps(file))
    text = results.offline_speed(tmp_path)
    assert "2 cores of chip; jax 1; commit 0123456789." in text
    cells = "| reef iql, 64 x 64 | 1,200 (1,199 - 1,201) | 400 (399 - 401) | 2,000 (1,999 - 2,001) | 3.00 | 30%, 10% |"
    assert cells in text
    assert results.offline(tmp_path) == ""  # it is no table
