"""The jobs of many runs: what they skip, go on with, make anew and refuse; scores and tables."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from dynamite_envs.errors import UserError
from dynamite_envs.gridworld.exact import GridworldSolution
from dynamite_jax import config as configs
from dynamite_jax import presets
from dynamite_jax.analysis import curves, figures, statistics
from dynamite_jax.commands import ablations, runs, sweep_p, table, tune
from dynamite_jax.config import ConfigError
from dynamite_jax.runtime import provenance, training

CODE = provenance.code()


def summary(returns, best=None):
    """What a finished run leaves, as far as tables read it."""
    references = {} if best is None else {"bayes_optimal": best}
    result = {"return": statistics.summarise(returns), "references": references, "recovery": {"steps": 4}}
    ran = {"commit": "c", "versions": {"jax": "1"}, "machine": {"cores": 2}, "code": CODE}
    ran |= {"encoder_updates": 4000, "encoder_steps": 5, "policy_updates": 6}
    return {"eval": result, "env_steps": 1, "steps_per_s": 2.0, "wall_s": 3.0, **ran}


def rows_of(run_configs, summaries):
    """Rows of finished runs whose returns while training were 0 and then those at the end, with their scores."""
    table = {}
    for name, config in run_configs.items():
        final = summaries[name]["eval"]["return"]["per_seed"]
        records = [{"env_steps": 10, "return": [0.0] * len(final)}, {"env_steps": 20, "return": final}]
        table[name] = runs.make_row(config, summaries[name], records)
    runs.score(table)
    return table


def leave(folder, config, record):
    """The folder of a finished run."""
    folder.mkdir(parents=True, exist_ok=True)
    configs.save(config, folder / "config.json")
    (folder / "metrics.jsonl").write_text(json.dumps({"env_steps": 10, "return": record["eval"]["return"]["per_seed"]}))
    (folder / "summary.json").write_text(json.dumps(record))


class Here:
    """A process that is none."""

    def __init__(self, target, args):
        self._call, self.exitcode = lambda: target(*args), 0

    def start(self):
        try:
            self._call()
        except KeyboardInterrupt:
            self.exitcode = -2

    def join(self):
        pass


@pytest.fixture
def training_here(monkeypatch):
    """Runs that take no time: the methods that were trained, and whether they were resumed."""
    trained = []

    def train(config, out, resume):
        trained.append((config.method, resume))
        leave(out, config, summary([1.0, 2.0], best=4.0))

    monkeypatch.setattr(training, "train", train)
    monkeypatch.setattr(runs.multiprocessing, "get_context", lambda kind: type("Context", (), {"Process": Here}))
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
    monkeypatch.setattr(runs.multiprocessing, "get_context", lambda kind: type("Context", (), {"Process": Here}))
    monkeypatch.setattr(runs.provenance, "commit", lambda: "c")
    run_configs = {name: dataclasses.replace(tiny, method=name) for name in ("varibad", "markov")}
    with pytest.raises(SystemExit) as stop:
        runs.complete(run_configs, tmp_path, tmp_path / "table.json")
    assert stop.value.code == 2
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
    monkeypatch.setattr(runs.multiprocessing, "get_context", started)
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


def test_a_row_whose_code_had_no_digest_is_made_anew():
    assert runs._of_todays_code({"code": CODE})
    unknown = {"modules": ["no.such"], "digest": provenance.digest(["no.such"])}
    assert unknown["digest"] is None and not runs._of_todays_code({"code": unknown})


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


@pytest.mark.parametrize("text", ["{", "[]", "{}"])
def test_a_file_that_is_no_table_is_refused(text, tiny, tmp_path):
    (tmp_path / "table.json").write_text(text)
    with pytest.raises(UserError, match="table.json' is no table"):
        runs.complete({"a": tiny}, tmp_path, tmp_path / "table.json")


def test_curves_come_back_from_their_file(tmp_path):
    first = curves.Curve(np.array([10, 20]), np.array([[1.0, 2.5], [3.0, -4.0]]))
    second = curves.Curve(np.array([5]), np.array([[0.123456]]))
    curves.write({"a, b": first, "c": second}, tmp_path / "x.csv")
    back = curves.read(tmp_path / "x.csv")
    for name, curve in {"a, b": first, "c": second}.items():
        np.testing.assert_array_equal(back[name].steps, curve.steps)
        np.testing.assert_allclose(back[name].returns, curve.returns, rtol=1e-4)
    assert curves.read(tmp_path / "none.csv") == {}
    (tmp_path / "bad.csv").write_text("run,env_steps\na,b\n")
    with pytest.raises(UserError, match="bad.csv' holds no curves"):
        curves.read(tmp_path / "bad.csv")


def test_a_table_of_code_that_was_not_committed_is_written_only_where_that_is_allowed(tiny, tmp_path):
    rows = rows_of({"a": tiny, "b": tiny}, {"a": summary([1.0]), "b": summary([1.0]) | {"commit": "c-dirty"}})
    with pytest.raises(UserError, match="commit of b is c-dirty"):
        runs.write(rows, tiny, tmp_path / "table.json", header="method")
    assert not list(tmp_path.iterdir())
    runs.write(rows, tiny, tmp_path / "table.json", header="method", allow_dirty=True)
    assert json.loads((tmp_path / "table.json").read_text())["runs"]["b"]["commit"] == "c-dirty"


def test_a_score_is_the_fraction_of_the_best_return_where_that_is_known(tiny):
    row = rows_of({"a": tiny}, {"a": summary([1.0, 3.0], best=4.0)})["a"]
    assert row["score"]["per_seed"] == [0.25, 0.75] and row["iqm"] == 2.0 and row["tuning_trials"] == 0
    assert row["auc"]["per_seed"] == [0.125, 0.375]  # half of the time it stood at 0


def test_a_score_is_the_way_from_no_memory_to_the_oracle_where_it_is_not(tiny):
    summaries = {"markov": summary([-10.0]), "oracle": summary([10.0]), "a": summary([5.0, 0.0])}
    rows = rows_of(dict.fromkeys(summaries, tiny), summaries)
    assert rows["a"]["score"]["per_seed"] == [0.75, 0.5]
    assert rows["markov"]["score"]["iqm"] == 0.0 and rows["oracle"]["score"]["iqm"] == 1.0
    assert rows["a"]["auc"]["per_seed"] == [0.625, 0.5]
    assert rows["a"]["steps_to"]["0.5"] == {"per_seed": [10, 10], "median": 10}
    assert rows["a"]["steps_to"]["0.8"] == {"per_seed": [None, None], "median": None}
    assert rows["oracle"]["steps_to"]["0.9"]["per_seed"] == [20]
    assert "score" not in rows_of({"a": tiny}, {"a": summaries["a"]})["a"]


def test_a_table_names_every_run_with_its_interval(tiny, tmp_path, capsys):
    rows = rows_of({"a b": tiny}, {"a b": summary([1.0, 3.0], best=4.0)})
    runs.write(rows, tiny, tmp_path / "table.json", header="method")
    text = (tmp_path / "table.md").read_text()
    cells = ("2.00 [1.00, 3.00]", "0.500 [0.250, 0.750]", "0.250 [0.125, 0.375]", "- / - / -", "0.250", "4")
    cells += ("0.0", "4,000", "0", "0")
    assert f"| {' | '.join(('a b', *cells))} |" in text
    assert capsys.readouterr().out == text
    record = json.loads((tmp_path / "table.json").read_text())
    kept = {name: {key: value for key, value in row.items() if key != "curve"} for name, row in rows.items()}
    assert record["runs"] == json.loads(json.dumps(kept)) and record["env"] == tiny.env
    run = record["runs"]["a b"]
    assert (run["commit"], run["versions"], run["machine"]) == ("c", {"jax": "1"}, {"cores": 2})
    assert configs.from_dict(run["config"], "table.json") == tiny


def test_a_loss_is_counted_seed_by_seed(tiny, tmp_path):
    rows = rows_of({"a": tiny, "b": tiny}, {"a": summary([4.0, 2.0], best=4.0), "b": summary([2.0, 3.0], best=4.0)})
    runs.compare(rows, "a")
    assert rows["b"]["loss"]["per_seed"] == [0.5, -0.25] and rows["a"]["loss"]["iqm"] == 0.0
    runs.write(rows, tiny, tmp_path / "ablations.json", header="variant")
    lines = (tmp_path / "ablations.md").read_text().splitlines()
    titles, row = ([cell.strip() for cell in line.split("|")[1:-1]] for line in (lines[2], lines[-1]))
    assert dict(zip(titles, row, strict=True))["loss of score"] == "0.125 [-0.250, 0.500]"


def test_steps_to_a_return_are_those_of_the_first_chunk_that_has_it():
    curve = curves.Curve(np.array([10, 20, 30]), np.array([[0.0, 2.0, 1.0], [3.0, 1.0, 1.5], [1.0, 5.0, 1.9]]))
    assert curves.steps_to(curve, 2.0) == {"per_seed": [20, 10, None], "median": 20}
    assert curves.steps_to(curve, 2.5) == {"per_seed": [20, 30, None], "median": 30}
    even = curve._replace(returns=curve.returns[:, :2])
    assert curves.steps_to(even, 2.0)["median"] == 20 and curves.steps_to(even, 4.0)["median"] is None
    assert curves.steps_to(curve, 4.0) == {"per_seed": [None, 30, None], "median": None}


def test_a_cell_is_empty_where_a_run_has_no_such_number(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    run_configs = {name: presets.default("gridworld", name) for name in ("oracle", "rl2")}
    summaries = {"oracle": summary([4.0], best=4.0), "rl2": summary([3.0], best=4.0)}
    summaries["rl2"]["eval"] |= {
        "regret": statistics.summarise([1.25]),
        "belief": {"readout_error": statistics.summarise([0.125]), "error_of_knowing_nothing": 0.4},
        "outcomes": {"scratches": statistics.summarise([12.5]), "success": statistics.summarise([0.25])},
        "recovery": {"steps": None},
        "boundary": {"exact": {"precision": None, "recall": 0.75}, "late": {"precision": 0.5, "recall": 0.5}},
    }
    monkeypatch.setattr(GridworldSolution, "regret_of_discount", lambda self, discount: 1.0 - discount)
    runs.write(rows_of(run_configs, summaries), run_configs["oracle"], tmp_path / "x.json", header="method")
    head, _, *lines = (tmp_path / "x.md").read_text().splitlines()[2:]
    titles = [title.strip() for title in head.split("|")]
    shown = {
        "regret": "1.250 [1.250, 1.250]",
        "regret of the discount": f"{1.0 - run_configs['rl2'].ppo.gamma:.3f}",
        "posterior error": "0.125 [0.125, 0.125]",
        "boundary precision / recall": "- / 0.75",
        "scratches": "12.500 [12.500, 12.500]",
        "success": "0.250 [0.250, 0.250]",
    }
    assert [line.split("|")[titles.index("steps to recover")].strip() for line in lines] == ["4", "-"]
    for line, expected in zip(lines, (dict.fromkeys(shown, "-"), shown), strict=True):
        row = dict(zip(titles, (cell.strip() for cell in line.split("|")), strict=True))
        assert {name: row[name] for name in shown} == expected
    record = json.loads((tmp_path / "x.json").read_text())["runs"]
    assert "regret" not in record["oracle"] and record["rl2"]["regret"]["iqm"] == 1.25


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


@pytest.mark.parametrize(
    "references", [{"bayes_optimal": 4.0, "oracle": 5.0}, {"oracle": 5.0}, {"bayes_optimal": 4.0}, {}]
)
def test_pictures_show_the_bayes_optimal_return_dashed_and_the_oracle_dotted(references, tmp_path, monkeypatch):
    axes = []

    def figure(make=figures._figure):
        made = make()
        axes.append(made[1])
        return made

    monkeypatch.setattr(figures, "_figure", figure)
    table = rows_of({"dynamite": presets.default("gridworld", "dynamite")}, {"dynamite": summary([1.0, 3.0])})
    table["dynamite"]["references"] = references
    figures.draw_table(table, tmp_path / "table.png", title="gridworld")
    lines = {line.get_label(): (line.get_ydata()[0], line.get_linestyle()) for line in axes[0].lines}
    styles = {"bayes_optimal": "--", "oracle": ":"}
    expected = {name.replace("_", "-"): (value, styles[name]) for name, value in references.items()}
    assert {name: lines[name] for name in ("bayes-optimal", "oracle") if name in lines} == expected


def test_a_plot_needs_a_label_for_each_run(tmp_path):
    with pytest.raises(ConfigError, match="labels are 1"):
        figures.draw_learning_curves((tmp_path, tmp_path), tmp_path / "x.png", labels=("one",))


def test_an_ablation_differs_from_the_whole_in_one_field():
    run_configs = ablations.variants("gridworld", seeds=3, steps=None)
    base = run_configs["dynamite"]
    two = {"reset, no conditioning", ablations.END_TO_END}
    for name, config in run_configs.items():
        if name not in ("dynamite", *runs.REFERENCES):
            assert len(configs.differences(base, config)) == 1 + (name in two), name
        assert (config.seeds, config.steps) == (3, base.steps)
        configs.validate(config)


def test_a_switch_that_the_preset_has_makes_no_ablation():
    run_configs = ablations.variants("halfcheetah_vel", seeds=1, steps=None)
    assert run_configs["dynamite"].vae.average_rate == 1.0 and "newest weights act" not in run_configs
    for config in run_configs.values():  # minibatches of steps become such of episodes for the policy's own loss
        configs.validate(config)


def test_a_sweep_scores_every_p_by_the_references_of_that_p(tmp_path, monkeypatch):
    """Returns are p for no memory, p + 10 for the oracle and half-way for all others."""
    run_configs = {}

    def complete(every, root, file, allow_dirty):
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
