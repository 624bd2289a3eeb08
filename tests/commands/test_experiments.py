"""The jobs of many runs: what they skip, go on with, make anew and refuse."""

import dataclasses
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from dynamite_envs.errors import UserError
from dynamite_jax import config as configs
from dynamite_jax import presets
from dynamite_jax.analysis import curves, figures, statistics
from dynamite_jax.commands import ablations, jobs, runs, sweep_p, table, tune
from dynamite_jax.config import ConfigError
from dynamite_jax.runtime import provenance, training
from finished_runs import CODE, leave, rows_of, summary
from recorded import collected


class Here:
    """A process that is none."""

    def __init__(self, target, args):
        self._call, self.exitcode = lambda: target(*args), 0

    def start(self):
        try:
            self._call()
        except SystemExit as stop:
            self.exitcode = stop.code


@pytest.fixture
def training_here(monkeypatch):
    """Runs that take no time: the methods that were trained, and whether they were resumed."""
    trained = []

    def train(config, out, resume):
        trained.append((config.method, resume))
        leave(out, config, summary([1.0, 2.0], best=4.0))

    monkeypatch.setattr(training, "train", train)
    monkeypatch.setattr(jobs.multiprocessing, "get_context", lambda kind: type("Context", (), {"Process": Here}))
    monkeypatch.setattr(runs.provenance, "commit", lambda: "c")
    return trained


def test_a_job_trains_what_is_missing_and_keeps_what_is_done(tiny, tmp_path, monkeypatch):
    trained = []

    def train(config, out, resume):
        trained.append((config.method, resume))
        leave(out, config, summary([1.0, 2.0]))
        if len(trained) == 1:  # the first of all runs is cut off
            (out / "summary.json").unlink()
            raise KeyboardInterrupt

    monkeypatch.setattr(training, "train", train)
    monkeypatch.setattr(jobs.multiprocessing, "get_context", lambda kind: type("Context", (), {"Process": Here}))
    monkeypatch.setattr(runs.provenance, "commit", lambda: "c")
    run_configs = {name: dataclasses.replace(tiny, method=name) for name in ("varibad", "markov")}
    with pytest.raises(SystemExit) as stop:
        runs.complete(run_configs, tmp_path, tmp_path / "table.json")
    assert stop.value.code == 130  # as of a process that was interrupted
    assert trained == [("varibad", False)]
    rows = runs.complete(run_configs, tmp_path, tmp_path / "table.json")
    assert trained[1:] == [("varibad", True), ("markov", False)]
    again = runs.complete(run_configs, tmp_path, tmp_path / "table.json")
    assert len(trained) == 3 and rows.keys() == again.keys()
    assert all(rows[name]["per_seed"] == again[name]["per_seed"] == [1.0, 2.0] for name in rows)


def test_a_job_refuses_folders_of_other_runs_before_it_trains(tiny, tmp_path):
    (tmp_path / "second").mkdir()
    configs.save(dataclasses.replace(tiny, seed=5), tmp_path / "second" / "config.json")
    with pytest.raises(ConfigError, match=r"second holds another run; seed: 5 -> 1"):
        runs.complete({"first": tiny, "second": tiny}, tmp_path, tmp_path / "table.json")
    assert not (tmp_path / "first").exists()


@pytest.mark.parametrize("commit", [None, "c", "c-dirty"])
def test_a_job_trains_no_code_that_is_not_committed(commit, tiny, tmp_path, monkeypatch):
    class Trained(Exception):
        pass

    def started(kind):
        raise Trained

    monkeypatch.setattr(runs.provenance, "commit", lambda: commit)
    monkeypatch.setattr(jobs.multiprocessing, "get_context", started)
    for allow_dirty in (False, True):
        refused = commit == "c-dirty" and not allow_dirty
        with pytest.raises(UserError if refused else Trained) as caught:
            runs.complete({"a": tiny}, tmp_path, tmp_path / "table.json", allow_dirty=allow_dirty)
        if refused:
            message = "commit of the code here is c-dirty: commit the changes and train anew, or add --allow-dirty"
            assert str(caught.value) == message and not list(tmp_path.iterdir())


def test_a_job_takes_no_finished_run_of_code_that_was_not_committed(tiny, tmp_path, monkeypatch):
    """It is named before the others train; where all have finished, the code of today does not matter."""
    finished = {"clean": summary([1.0]), "changed": summary([1.0]) | {"commit": "c-dirty"}}
    for name, record in finished.items():
        leave(tmp_path / name, tiny, record)
    monkeypatch.setattr(runs.provenance, "commit", lambda: "d-dirty")
    file = tmp_path / "table.json"
    with pytest.raises(UserError, match="commit of changed is c-dirty"):
        runs.complete(dict.fromkeys(("clean", "changed", "missing"), tiny), tmp_path, file)
    assert runs.complete({"clean": tiny}, tmp_path, file).keys() == {"clean"}
    every = runs.complete(dict.fromkeys(finished, tiny), tmp_path, file, allow_dirty=True)
    assert {name: row["commit"] for name, row in every.items()} == {"clean": "c", "changed": "c-dirty"}


def table_once(tiny, tmp_path, names, **options):
    """Complete, score and write a table of some methods, as the command does."""
    run_configs = {name: dataclasses.replace(tiny, method=name, **options) for name in ("dynamite", "rl2", "oracle")}
    table = runs.complete(run_configs, tmp_path / "runs", tmp_path / "table.json", wanted=names)
    runs.score(table)
    runs.write(table, tiny, tmp_path / "table.json", header="method")
    return table


def test_a_row_that_holds_needs_no_run_folder(tiny, tmp_path, training_here):
    first = table_once(tiny, tmp_path, ("dynamite", "rl2"))
    (tmp_path / "runs").rename(tmp_path / "lost")
    second = table_once(tiny, tmp_path, ("dynamite", "oracle"))
    assert training_here == [("dynamite", False), ("rl2", False), ("oracle", False)]
    assert list(second) == ["dynamite", "rl2", "oracle"]
    for name, row in first.items():
        assert row["score"] == second[name]["score"] and row["auc"] == second[name]["auc"]
        np.testing.assert_array_equal(row["curve"].returns, second[name]["curve"].returns)
    assert "*" not in (tmp_path / "table.md").read_text().splitlines()[-1]


def test_a_row_of_other_code_is_marked_and_made_anew(tiny, tmp_path, training_here, monkeypatch, capsys):
    table_once(tiny, tmp_path, ("dynamite", "rl2"))
    monkeypatch.setattr(runs.provenance, "digest", lambda modules: "another")
    monkeypatch.setitem(CODE, "digest", "another")
    table = table_once(tiny, tmp_path, ("rl2",))
    assert training_here[2:] == [("rl2", False)]
    assert {name: row.get("stale", False) for name, row in table.items()} == {"dynamite": True, "rl2": False}
    lines = (tmp_path / "table.md").read_text().splitlines()
    assert lines[4].startswith("| dynamite* |") and lines[5].startswith("| rl2 |") and lines[-1].startswith("* made by")
    # What the other code had left is kept, under another name.
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["dynamite", "rl2", "rl2.1"]
    assert "rl2 was made by other code; it is now" in capsys.readouterr().err.replace("\n", "")


@pytest.mark.parametrize("cut_off", ["at the end", "before the first checkpoint"])
def test_a_run_that_other_code_began_is_made_anew(cut_off, tiny, tmp_path, training_here):
    other = summary([1.0, 2.0]) | {"code": {"digest": "another", "modules": []}}
    leave(tmp_path / "runs" / "rl2", dataclasses.replace(tiny, method="rl2"), other)
    (tmp_path / "runs" / "rl2" / "summary.json").unlink()
    if cut_off == "before the first checkpoint":
        (tmp_path / "runs" / "rl2" / "checkpoints" / "1").rmdir()
    table_once(tiny, tmp_path, ("rl2",))
    anew = cut_off == "at the end"
    assert training_here == [("rl2", not anew)]
    assert (tmp_path / "runs" / "rl2.1").exists() == anew


def test_a_row_whose_code_had_no_digest_is_made_anew():
    assert provenance.is_todays(CODE) and not provenance.is_todays(None)
    unknown = {"modules": ["no.such"], "digest": provenance.digest(["no.such"])}
    assert unknown["digest"] is None and not provenance.is_todays(unknown)


def test_a_row_of_a_version_that_kept_less_is_marked_and_kept(tiny, tmp_path, training_here):
    old = {**statistics.summarise([1.0, 2.0]), "score": statistics.summarise([0.5, 0.6]), "env_steps": 5, "wall_s": 9.0}
    (tmp_path / "table.json").write_text(json.dumps({"runs": {"dynamite": {**old, "commit": "a-dirty"}}}))
    table = table_once(tiny, tmp_path, ("rl2",))
    assert training_here == [("rl2", False)] and table["dynamite"]["score"] == old["score"]
    assert list(curves.read(tmp_path / "table_curves.csv")) == ["rl2"]
    assert (tmp_path / "table.md").read_text().splitlines()[4].startswith("| dynamite* | 1.50 [1.00, 2.00] | 0.550 ")


def test_a_row_of_another_config_is_made_anew(tiny, tmp_path, training_here):
    table_once(tiny, tmp_path, ("dynamite",))
    table_once(tiny, tmp_path / "other", ("dynamite",))
    file = json.loads((tmp_path / "table.json").read_text())
    file["runs"]["dynamite"]["config"]["steps"] *= 2
    (tmp_path / "other" / "table.json").write_text(json.dumps(file))
    (tmp_path / "other" / "runs").rename(tmp_path / "lost")
    table_once(tiny, tmp_path / "other", ("dynamite",))
    assert len(training_here) == 3


def test_a_run_with_physics_is_resumed_although_its_config_names_who_computes_it(tmp_path, training_here):
    config = dataclasses.replace(presets.default("reacher", "markov"), seeds=1)
    settled = configs.changed(config, {"physics.impl": "jax"})
    configs_of = {"markov": config}
    leave(tmp_path / "markov", settled, summary([1.0]))
    (tmp_path / "markov" / "summary.json").unlink()
    table = runs.complete(configs_of, tmp_path, tmp_path / "table.json")
    assert training_here == [("markov", True)] and table.keys() == {"markov"}


def test_a_table_of_nothing_is_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["table", "--methods", "--out", str(tmp_path), "--runs", str(tmp_path / "runs")])
    with pytest.raises(SystemExit) as stop:
        table.main()
    (line,) = capsys.readouterr().err.splitlines()
    assert stop.value.code == 2 and "methods is empty" in line and not list(tmp_path.rglob("*.json"))


def test_the_offline_table_has_its_rows_in_a_folder_of_its_own(tmp_path, monkeypatch, training_here):
    data = tmp_path / "data"
    dataset = collected(data, "gridworld", episodes=4)
    flags = [
        "--setting",
        "offline",
        "--data",
        str(data),
        "--seeds",
        "2",
        "--out",
        str(tmp_path),
        "--runs",
        str(tmp_path),
    ]
    monkeypatch.setattr(sys, "argv", ["table", *flags, "--methods", "dynamite", "borel", "bc", "bc on observations"])
    table.main()
    rows = json.loads((tmp_path / "gridworld" / "offline" / "table.json").read_text())["runs"]
    assert list(rows) == ["dynamite", "borel", "bc", "bc on observations"]
    assert [method for method, _ in training_here] == ["dynamite", "borel", "dynamite", "markov"]
    found = {name: configs.from_dict(row["config"], "table") for name, row in rows.items()}
    assert {config.offline.digest for config in found.values()} == {dataset.digest}
    assert {name: (config.offline.learner, config.offline.relabel) for name, config in found.items()} == {
        "dynamite": ("iql", 0.0),
        "borel": ("iql", 0.5),
        "bc": ("bc", 0.0),
        "bc on observations": ("bc", 0.0),
    }
    # Other episodes make other rows.
    shutil.rmtree(data)
    collected(data, "gridworld", episodes=8)
    monkeypatch.setattr(sys, "argv", ["table", *flags, "--methods", "borel", "--runs", str(tmp_path / "again")])
    table.main()
    rows = json.loads((tmp_path / "gridworld" / "offline" / "table.json").read_text())["runs"]
    assert {name: row.get("stale", False) for name, row in rows.items()} == {
        "dynamite": True,
        "borel": False,
        "bc": True,
        "bc on observations": True,
    }


def test_rows_that_an_environment_can_not_relabel_are_left_out(tmp_path, monkeypatch, capsys):
    collected(tmp_path / "data", "probe_termination", episodes=4)
    seen = {}
    monkeypatch.setattr(table.runs, "complete", lambda run_configs, *_, **__: seen.update(run_configs) or {})
    flags = [
        "--env",
        "probe_termination",
        "--setting",
        "offline",
        "--data",
        str(tmp_path / "data"),
        "--out",
        str(tmp_path),
    ]
    monkeypatch.setattr(sys, "argv", ["table", *flags])
    with pytest.raises(SystemExit):
        table.main()
    assert "borel" in seen and not [name for name in seen if "relabelled" in name]
    monkeypatch.setattr(sys, "argv", ["table", *flags, "--methods", "dynamite, relabelled"])
    with pytest.raises(SystemExit) as stop:
        table.main()
    assert stop.value.code == 2 and "methods has 'dynamite, relabelled'" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["{", "[]", "{}"])
def test_a_file_that_is_no_table_is_refused(text, tiny, tmp_path):
    (tmp_path / "table.json").write_text(text)
    with pytest.raises(UserError, match="table.json' is no table"):
        runs.complete({"a": tiny}, tmp_path, tmp_path / "table.json")


@pytest.mark.parametrize("command", [table, ablations, sweep_p, tune])
def test_results_that_can_not_be_written_are_refused_before_training(command, tmp_path, monkeypatch, capsys):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(runs, "complete", None)
    monkeypatch.setattr("sys.argv", [command.__name__, "--out", str(tmp_path / "file" / "results")])
    with pytest.raises(SystemExit) as stop:
        command.main()
    assert stop.value.code == 2
    assert "file/results" in capsys.readouterr().err


@pytest.mark.parametrize(
    "name, cause",
    [
        ("x.xyz", "x.xyz'; its name must end in .*png"),
        ("x", "x'; its name must"),
        ("no/x.png", "x.png', which can't be"),
    ],
)
def test_a_picture_that_can_not_be_written_is_refused(name, cause, tmp_path):
    with pytest.raises(UserError, match=cause):
        figures.draw_learning_curves((Path(__file__).parents[1] / "files" / "run_v0",), tmp_path / name)
    assert not list(tmp_path.iterdir())


@pytest.fixture
def axes(monkeypatch) -> list:
    """Axes of the pictures that are drawn, in turn."""
    drawn = []

    def figure(make=figures._figure):
        made = make()
        drawn.append(made[1])
        return made

    monkeypatch.setattr(figures, "_figure", figure)
    return drawn


@pytest.mark.parametrize(
    "references", [{"bayes_optimal": 4.0, "oracle": 5.0}, {"oracle": 5.0}, {"bayes_optimal": 4.0}, {}]
)
def test_pictures_show_the_bayes_optimal_return_dashed_and_the_oracle_dotted(references, tmp_path, axes):
    table = rows_of({"dynamite": presets.default("gridworld", "dynamite")}, {"dynamite": summary([1.0, 3.0])})
    table["dynamite"]["references"] = references
    figures.draw_table(table, tmp_path / "table.png", title="gridworld")
    lines = {line.get_label(): (line.get_ydata()[0], line.get_linestyle()) for line in axes[0].lines}
    styles = {"bayes_optimal": "--", "oracle": ":"}
    expected = {name.replace("_", "-"): (value, styles[name]) for name, value in references.items()}
    assert {name: lines[name] for name in ("bayes-optimal", "oracle") if name in lines} == expected


def test_a_method_has_one_colour_in_all_pictures(tmp_path, axes):
    """And rows beyond the colours there are have another line."""

    def drawn(*names):
        config = presets.default("gridworld", "dynamite")
        table = rows_of(dict.fromkeys(names, config), {name: summary([1.0, 3.0]) for name in names})
        figures.draw_table(table, tmp_path / "table.png", title="gridworld")
        lines = {line.get_label().split(" (")[0]: line for line in axes[-1].lines}
        return {name: (lines[name].get_color(), lines[name].get_linestyle()) for name in names}

    p = {f"{method} p={value}": {"iqm": 1.0, "ci95": [0.5, 1.5]} for method in ("rl2", "dynamite") for value in (0, 1)}
    figures.draw_sweep(p, methods=("rl2", "dynamite"), p=(0, 1), env="gridworld", out=tmp_path / "sweep.png")
    lines = [line.get_color() for line in axes[-1].lines]
    assert lines == [drawn(name)[name][0] for name in ("rl2", "dynamite")]
    assert drawn("oracle", "dynamite") == {name: drawn(name)[name] for name in ("oracle", "dynamite")}
    many = drawn("dynamite", "oracle", *map(str, range(12)))
    assert len(set(many.values())) == 14 and many["oracle"] == drawn("oracle")["oracle"]


def test_a_plot_needs_a_label_for_each_run(tmp_path):
    with pytest.raises(ConfigError, match="labels are 1"):
        figures.draw_learning_curves((tmp_path, tmp_path), tmp_path / "x.png", labels=("one",))


def test_an_ablation_differs_from_the_whole_in_one_field():
    run_configs = ablations.variants("gridworld", seeds=3, steps=None)
    base = run_configs["dynamite"]
    two = {"reset, no conditioning", "posteriors of sessions, no conditioning", ablations.END_TO_END}
    for name, config in run_configs.items():
        if name not in ("dynamite", *runs.REFERENCES):
            assert len(configs.differences(base, config)) == 1 + (name in two), name
        assert (config.seeds, config.steps) == (3, base.steps)
        configs.validate(config)


def test_some_ablations_are_trained_beside_dynamite_and_unknown_ones_refused(tmp_path, monkeypatch, capsys):
    wanted = []
    monkeypatch.setattr(runs, "complete", lambda *_, **options: wanted.extend(options["wanted"]) or sys.exit(0))
    for rows, code in (["no consistency", "oracle"], 0), (["no consistncy"], 2):
        monkeypatch.setattr("sys.argv", ["ablations", "--out", str(tmp_path), "--rows", *rows])
        with pytest.raises(SystemExit) as stop:
            ablations.main()
        assert stop.value.code == code
    assert wanted == ["dynamite", "no consistency", "oracle"]
    assert "rows has 'no consistncy'" in (error := capsys.readouterr().err) and "no consistency" in error


def test_a_switch_that_the_preset_has_makes_no_ablation():
    run_configs = ablations.variants("halfcheetah_vel", seeds=1, steps=None)
    assert run_configs["dynamite"].vae.average_rate == 1.0 and "newest weights act" not in run_configs
    for config in run_configs.values():  # minibatches of steps become such of episodes for the policy's own loss
        configs.validate(config)


def test_a_sweep_scores_every_p_by_the_references_of_that_p(tmp_path, monkeypatch):
    """Returns are p for no memory, p + 10 for the oracle and half-way for all others."""
    run_configs = {}

    def complete(every, root, file, **options):
        run_configs.update(every)
        place = {"markov": 0.0, "oracle": 10.0}
        p = {name: config.env_options["p"] for name, config in every.items()}
        summaries = {name: summary([p[name] + place.get(config.method, 5.0)] * 2) for name, config in every.items()}
        return rows_of(every, summaries)

    monkeypatch.setattr(runs, "complete", complete)
    flags = "--env point_robot --methods dynamite --p 0.0 1.0 --seeds 2 --steps 30000 --out"
    monkeypatch.setattr("sys.argv", ["sweep_p", *flags.split(), str(tmp_path)])
    sweep_p.main()
    assert all((config.seeds, config.steps) == (2, 30000) for config in run_configs.values())
    rows = json.loads((tmp_path / "point_robot" / "sweep_p.json").read_text())["runs"]
    assert {name: row["score"]["iqm"] for name, row in rows.items()} == {
        f"{method} p={p}": score
        for p in (0.0, 1.0)
        for method, score in (("dynamite", 0.5), ("oracle", 1.0), ("markov", 0.0))
    }
    assert (tmp_path / "point_robot" / "sweep_p.png").stat().st_size > 1000


@pytest.mark.parametrize("module", [table, ablations])
def test_a_comparison_gives_every_row_the_same_frames_and_seeds(module, tmp_path, monkeypatch):
    run_configs, drawn = {}, []

    def complete(every, root, file, **options):
        run_configs.update(every)
        return rows_of(every, {name: summary([1.0, 3.0], best=4.0) for name in every})

    monkeypatch.setattr(runs, "complete", complete)
    monkeypatch.setattr(figures, "draw_table", lambda table, out, **options: drawn.append((table, out)))
    flags = "--env gridworld --seeds 2 --steps 30000 --runs runs --out"
    monkeypatch.setattr("sys.argv", ["command", *flags.split(), str(tmp_path)])
    module.main()
    name = module.__name__.split(".")[-1]
    assert {"dynamite", "oracle", "markov"} <= run_configs.keys()
    assert all((config.seeds, config.steps, config.seed) == (2, 30000, 1) for config in run_configs.values())
    assert json.loads((tmp_path / "gridworld" / f"{name}.json").read_text())["runs"].keys() == run_configs.keys()
    ((rows, out),) = drawn
    assert list(rows) == list(run_configs) and out == tmp_path / "gridworld" / f"{name}.png"
