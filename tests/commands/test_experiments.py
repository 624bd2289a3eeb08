"""The jobs of many runs: what they skip, go on with and refuse; scores; the random search."""

import dataclasses
import json
from pathlib import Path

import jax
import numpy as np
import pytest

from conftest import build, compiled, tiny_config
from dynamite_envs.errors import UserError
from dynamite_jax import config as configs
from dynamite_jax import presets
from dynamite_jax.analysis import figures, statistics
from dynamite_jax.commands import ablations, runs, sweep_p, table, tune
from dynamite_jax.config import ConfigError
from dynamite_jax.methods import METHODS
from dynamite_jax.runtime import training, tuning


def summary(returns, best=None):
    """What a finished run leaves, as far as tables read it."""
    references = {} if best is None else {"bayes_optimal": best}
    result = {"return": statistics.summarise(returns), "references": references}
    ran = {"commit": "c", "versions": {"jax": "1"}, "machine": {"cores": 2}}
    return {"eval": result, "env_steps": 1, "steps_per_s": 2.0, "wall_s": 3.0, **ran}


def test_a_job_trains_what_is_missing_and_keeps_what_is_done(tiny, tmp_path, monkeypatch):
    trained = []

    def train(config, out, resume):
        trained.append((config.method, resume))
        out.mkdir(parents=True, exist_ok=True)
        configs.save(config, out / "config.json")
        if len(trained) == 1:  # the first of all runs is cut off
            raise KeyboardInterrupt
        (out / "summary.json").write_text(json.dumps(summary([1.0, 2.0])))

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

    monkeypatch.setattr(training, "train", train)
    monkeypatch.setattr(runs.multiprocessing, "get_context", lambda kind: type("Context", (), {"Process": Here}))
    monkeypatch.setattr(runs.provenance, "commit", lambda: "c")
    run_configs = {name: dataclasses.replace(tiny, method=name) for name in ("varibad", "markov")}
    with pytest.raises(SystemExit) as stop:
        runs.complete(run_configs, tmp_path)
    assert stop.value.code == 2
    assert trained == [("varibad", False)]
    summaries = runs.complete(run_configs, tmp_path)
    assert trained[1:] == [("varibad", True), ("markov", False)]
    assert summaries == runs.complete(run_configs, tmp_path) and len(trained) == 3


def test_a_job_refuses_folders_of_other_runs_before_it_trains(tiny, tmp_path):
    (tmp_path / "second").mkdir()
    configs.save(dataclasses.replace(tiny, seed=5), tmp_path / "second" / "config.json")
    with pytest.raises(ConfigError, match=r"second holds another run; seed: 5 -> 1"):
        runs.complete({"first": tiny, "second": tiny}, tmp_path)
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
            runs.complete({"a": tiny}, tmp_path, allow_dirty)
        if refused:
            message = "commit of the code here is c-dirty: commit the changes and train anew, or add --allow-dirty"
            assert str(caught.value) == message and not list(tmp_path.iterdir())


def test_a_job_takes_no_finished_run_of_code_that_was_not_committed(tiny, tmp_path, monkeypatch):
    """It is named before the others train; where all have finished, the code of today does not matter."""
    finished = {"clean": summary([1.0]), "changed": summary([1.0]) | {"commit": "c-dirty"}}
    for name, record in finished.items():
        (tmp_path / name).mkdir()
        configs.save(tiny, tmp_path / name / "config.json")
        (tmp_path / name / "summary.json").write_text(json.dumps(record))
    monkeypatch.setattr(runs.provenance, "commit", lambda: "d-dirty")
    with pytest.raises(UserError, match="commit of changed is c-dirty"):
        runs.complete(dict.fromkeys(("clean", "changed", "missing"), tiny), tmp_path)
    assert runs.complete({"clean": tiny}, tmp_path) == {"clean": finished["clean"]}
    assert runs.complete(dict.fromkeys(finished, tiny), tmp_path, allow_dirty=True) == finished


def test_a_table_of_code_that_was_not_committed_is_written_only_where_that_is_allowed(tiny, tmp_path):
    rows = runs.rows({"a": tiny, "b": tiny}, {"a": summary([1.0]), "b": summary([1.0]) | {"commit": "c-dirty"}})
    with pytest.raises(UserError, match="commit of b is c-dirty"):
        runs.write(rows, tiny, tmp_path, name="table", header="method")
    assert not list(tmp_path.iterdir())
    runs.write(rows, tiny, tmp_path, name="table", header="method", allow_dirty=True)
    assert json.loads((tmp_path / "table.json").read_text())["runs"]["b"]["commit"] == "c-dirty"


def test_a_score_is_the_fraction_of_the_best_return_where_that_is_known(tiny):
    row = runs.rows({"a": tiny}, {"a": summary([1.0, 3.0], best=4.0)})["a"]
    assert row["score"]["per_seed"] == [0.25, 0.75] and row["iqm"] == 2.0 and row["tuning_trials"] == 0


def test_a_score_is_the_way_from_no_memory_to_the_oracle_where_it_is_not(tiny):
    summaries = {"markov": summary([-10.0]), "oracle": summary([10.0]), "a": summary([5.0, 0.0])}
    rows = runs.rows(dict.fromkeys(summaries, tiny), summaries)
    assert rows["a"]["score"]["per_seed"] == [0.75, 0.5]
    assert rows["markov"]["score"]["iqm"] == 0.0 and rows["oracle"]["score"]["iqm"] == 1.0
    assert "score" not in runs.rows({"a": tiny}, {"a": summaries["a"]})["a"]


def test_a_table_names_every_run_with_its_interval(tiny, tmp_path, capsys):
    rows = runs.rows({"a b": tiny}, {"a b": summary([1.0, 3.0], best=4.0)})
    runs.write(rows, tiny, tmp_path, name="table", header="method")
    text = (tmp_path / "table.md").read_text()
    assert "| a b | 2.00 [1.00, 3.00] | 0.500 [0.250, 0.750] | 0.250 | 0.0 M | 0 | 0 |" in text
    assert capsys.readouterr().out == text
    record = json.loads((tmp_path / "table.json").read_text())
    assert record["runs"] == json.loads(json.dumps(rows)) and record["env"] == tiny.env
    run = record["runs"]["a b"]
    assert (run["commit"], run["versions"], run["machine"]) == ("c", {"jax": "1"}, {"cores": 2})
    assert configs.from_dict(run["config"], "table.json") == tiny


def test_a_loss_is_counted_seed_by_seed(tiny, tmp_path):
    rows = runs.rows({"a": tiny, "b": tiny}, {"a": summary([4.0, 2.0], best=4.0), "b": summary([2.0, 3.0], best=4.0)})
    runs.compare(rows, "a")
    assert rows["b"]["loss"]["per_seed"] == [0.5, -0.25] and rows["a"]["loss"]["iqm"] == 0.0
    runs.write(rows, tiny, tmp_path, name="ablations", header="variant")
    lines = (tmp_path / "ablations.md").read_text().splitlines()
    titles, row = ([cell.strip() for cell in line.split("|")[1:-1]] for line in (lines[2], lines[-1]))
    assert dict(zip(titles, row, strict=True))["loss of score"] == "0.125 [-0.250, 0.500]"


def test_a_cell_is_empty_where_a_run_has_no_such_number(tmp_path):
    run_configs = {name: presets.default("gridworld", name) for name in ("oracle", "rl2")}
    summaries = {"oracle": summary([4.0], best=4.0), "rl2": summary([3.0], best=4.0)}
    summaries["rl2"]["eval"] |= {
        "regret": statistics.summarise([1.25]),
        "belief": {"readout_error": statistics.summarise([0.125]), "error_of_knowing_nothing": 0.4},
        "outcomes": {"scratches": statistics.summarise([12.5]), "success": statistics.summarise([0.25])},
    }
    runs.write(runs.rows(run_configs, summaries), run_configs["oracle"], tmp_path, name="x", header="method")
    head, _, *lines = (tmp_path / "x.md").read_text().splitlines()[2:]
    titles = [title.strip() for title in head.split("|")]
    filled = ("1.250 [1.250, 1.250]", "0.125 [0.125, 0.125]", "12.500 [12.500, 12.500]", "0.250 [0.250, 0.250]")
    for line, cells in zip(lines, (("-",) * 4, filled), strict=True):
        row = dict(zip(titles, (cell.strip() for cell in line.split("|")), strict=True))
        assert tuple(row[name] for name in ("regret", "posterior error", "scratches", "success")) == cells
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


def test_a_plot_needs_a_label_for_each_run(tmp_path):
    with pytest.raises(ConfigError, match="labels are 1"):
        figures.draw_learning_curves((tmp_path, tmp_path), tmp_path / "x.png", labels=("one",))


def test_an_ablation_differs_from_the_whole_in_one_field():
    run_configs = ablations.variants("gridworld", seeds=3, steps=None)
    base = run_configs["dynamite"]
    for name, config in run_configs.items():
        if name not in ("dynamite", *runs.REFERENCES):
            assert len(configs.differences(base, config)) == 1, name
        assert (config.seeds, config.steps) == (3, base.steps)
        configs.validate(config)


def test_a_sweep_scores_every_p_by_the_references_of_that_p(tmp_path, monkeypatch):
    """Returns are p for no memory, p + 10 for the oracle and half-way for all others."""
    run_configs = {}

    def complete(every, root, allow_dirty):
        run_configs.update(every)
        place = {"markov": 0.0, "oracle": 10.0}
        p = {name: config.env_options["p"] for name, config in every.items()}
        return {name: summary([p[name] + place.get(config.method, 5.0)] * 2) for name, config in every.items()}

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

    def complete(every, root, allow_dirty):
        run_configs.update(every)
        return {name: summary([1.0, 3.0], best=4.0) for name in every}

    monkeypatch.setattr(runs, "complete", complete)
    monkeypatch.setattr(figures, "draw_learning_curves", lambda folders, out, **options: drawn.append((folders, out)))
    flags = "--env gridworld --seeds 2 --steps 30000 --runs runs --out"
    monkeypatch.setattr("sys.argv", ["command", *flags.split(), str(tmp_path)])
    module.main()
    name = module.__name__.split(".")[-1]
    assert {"dynamite", "oracle", "markov"} <= run_configs.keys()
    assert all((config.seeds, config.steps, config.seed) == (2, 30000, 1) for config in run_configs.values())
    assert json.loads((tmp_path / "gridworld" / f"{name}.json").read_text())["runs"].keys() == run_configs.keys()
    ((folders, out),) = drawn
    assert [folder.name for folder in folders] == list(run_configs) and out == tmp_path / "gridworld" / f"{name}.png"


# -- random search ------------------------------------------------------------------------------------------------


def test_the_search_starts_from_the_preset_and_stays_within_its_bounds():
    config = presets.default("gridworld", "dynamite")
    first, second, *others = tuning.candidates(config, 200)
    assert configs.changed(config, first) == config
    changes = {"vae.minibatches": 2, "ppo.minibatches": 8, "ppo.delay": 0.0}
    assert configs.changed(config, second) == configs.changed(config, changes)
    assert [setting["ppo.minibatches"] for setting in others] == [32, 8] * 99
    for name in tuning.SEARCHED:
        values = np.array([setting[name] for setting in others])
        start = first[name]
        ratio = (1 - values) / (1 - start) if name == "ppo.gamma" else values / start
        assert 1 / tuning.FACTOR <= ratio.min() < 0.4 and 2.5 < ratio.max() <= tuning.FACTOR, name
        assert abs(np.log(ratio).mean()) < 0.2
    for setting in others:
        configs.validate(configs.changed(config, setting))


def test_the_search_has_one_schedule_where_minibatches_can_not_be_larger():
    config = tiny_config("probe_match", vae={"minibatches": 1}, ppo={"minibatches": 1})
    (way,) = tuning.schedules(config)
    assert configs.changed(config, way) == config
    assert all(way.items() <= setting.items() for setting in tuning.candidates(config, 3))


def test_every_method_meets_the_same_factors():
    settings = {m: tuning.candidates(presets.default("gridworld", m), 5) for m in METHODS}
    for method in METHODS:
        for name in tuning.SEARCHED:
            trials_of = (settings[method], settings["dynamite"])
            ratios = [[trial[name] / trials[0][name] for trial in trials] for trials in trials_of]
            if name != "ppo.gamma":
                np.testing.assert_allclose(*ratios, rtol=1e-6)


def test_trials_side_by_side_are_the_runs_they_stand_for():
    """Each agent of the search ends as if it had been trained alone with its setting and its seed."""
    config = tiny_config("probe_match", chunk=1, steps=160, ppo={"lr": 1e-2})
    program, _ = build(dataclasses.replace(config, seeds=4))
    states = program.init(ids=[0, 1, 0, 1])
    each = [configs.changed(config, {"ppo.lr": lr, "vae.kl_weight": kl}) for lr, kl in ((1e-2, 0.01), (1e-3, 0.5))]
    hyper = jax.tree.map(
        lambda *x: np.asarray(x, np.float32), *[(one.vae, one.ppo) for one in each for _ in range(config.seeds)]
    )
    together, _ = program.compile(states, hyper)(states)
    for number, one in enumerate(each):
        alone, _ = compiled(one)(build(one)[1])
        for a, b in zip(jax.tree.leaves(together.policy_params), jax.tree.leaves(alone.policy_params), strict=True):
            np.testing.assert_allclose(np.asarray(a)[2 * number : 2 * number + 2], np.asarray(b), rtol=1e-3, atol=1e-5)


def search_once(tmp_path, monkeypatch, scores):
    """The record of a search whose returns are given: of four trials, then of two finalists."""
    config = tiny_config("probe_match", "markov", steps=320)
    searches, remaining = [], iter(scores)

    def search(config, settings):
        searches.append((config, settings))
        return next(remaining)

    monkeypatch.setattr(presets, "TUNED", tmp_path)
    monkeypatch.setattr(presets, "default", lambda env, method: config)
    monkeypatch.setattr(tuning, "search", search)
    flags = "--env probe_match --methods markov --trials 4 --seeds 3 --out"
    monkeypatch.setattr("sys.argv", ["tune", *flags.split(), str(tmp_path)])
    tune.main()
    return json.loads((tmp_path / "probe_match_markov.json").read_text()), searches


def test_the_best_trials_train_again_to_the_end_with_other_seeds(tmp_path, monkeypatch):
    nan = float("nan")
    record, ((trial, settings), (final, finalists)) = search_once(tmp_path, monkeypatch, [[1.0, nan, 5.0, 4.0], [2, 3]])
    assert finalists == [settings[2], settings[3]] and record["changes"] == settings[3]
    assert (trial.steps, final.steps, trial.seeds, final.seeds) == (160, 320, 3, 6) and trial.seed != final.seed
    assert record["steps"] == [160, 320] and record["agents"] == [3, 6] and record["trials"] == 4
    assert record["root_seeds"] == [trial.seed, final.seed]
    assert [one["return"] for one in record["searched"][2:]] == [5.0, 4.0]
    assert [one["return"] for one in record["finalists"]] == [2, 3]


def test_a_search_writes_beside_the_runs_where_runs_from_there_find_it(tmp_path, monkeypatch):
    before = {path.name: path.read_bytes() for path in presets.SHIPPED.iterdir()}
    monkeypatch.setattr(tuning, "search", lambda config, settings: [float(n) for n, _ in enumerate(settings)])
    monkeypatch.setattr(
        "sys.argv", ["tune", "--env", "gridworld", "--methods", "markov", "--trials", "3", "--finalists", "1"]
    )
    shipped = presets.default("gridworld", "markov")
    assert presets.source(shipped) == "dynamite_jax/tuned/gridworld_markov.json of the package"
    trials = presets.tuning_trials(shipped)
    monkeypatch.chdir(tmp_path)
    tune.main()
    here = presets.default("gridworld", "markov")
    record = json.loads((tmp_path / "runs" / "tuned" / "gridworld_markov.json").read_text())
    assert here == configs.changed(shipped, record["changes"]) != shipped
    assert presets.source(here) == "runs/tuned/gridworld_markov.json"
    assert presets.tuning_trials(here) == trials + 3 == record["trials"]
    assert {path.name: path.read_bytes() for path in presets.SHIPPED.iterdir()} == before
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert presets.default("gridworld", "markov") == shipped


def test_a_search_without_a_finite_trial_says_so(tmp_path, monkeypatch, capsys):
    nan = float("nan")
    with pytest.raises(SystemExit) as stop:
        search_once(tmp_path, monkeypatch, [[nan] * 4, []])
    assert stop.value.code == 2 and "every trial" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_the_choice_of_a_search_becomes_the_preset(tmp_path, monkeypatch):
    config = tiny_config("probe_match", "markov", steps=320)
    monkeypatch.setattr(presets, "TUNED", tmp_path)
    monkeypatch.setattr(presets, "default", lambda env, method: config)
    flags = "--env probe_match --methods markov --trials 4 --seeds 1 --out"
    monkeypatch.setattr("sys.argv", ["tune", *flags.split(), str(tmp_path)])
    tune.main()
    monkeypatch.undo()
    record = json.loads((tmp_path / "probe_match_markov.json").read_text())
    assert len(record["searched"]) == 4 and len(record["finalists"]) == 2
    best = max(record["finalists"], key=lambda one: one["return"])
    assert record["changes"] == {name: value for name, value in best.items() if name != "return"}
    monkeypatch.setattr(presets, "TUNED", tmp_path)
    tuned = presets.default("probe_match", "markov")
    assert tuned.ppo.lr == best["ppo.lr"] and presets.tuning_trials(tuned) == 4
    assert presets.tuning_trials(configs.changed(tuned, {"ppo.lr": 2 * tuned.ppo.lr})) == 0
    assert presets.tuning_trials(presets.default("probe_match", "markov", "accelerator")) == 0
