"""Rows of tables: scores, losses, curves, and how they are shown."""

import json

import numpy as np
import pytest

from dynamite_envs import exact
from dynamite_envs.errors import UserError
from dynamite_envs.gridworld.env import Gridworld
from dynamite_envs.gridworld.exact import GridworldSolution
from dynamite_jax import config as configs
from dynamite_jax import presets
from dynamite_jax.analysis import curves, statistics
from dynamite_jax.commands import runs
from finished_runs import rows_of, summary


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


def test_without_a_discount_there_is_no_regret_of_it():
    config = configs.changed(presets.default("gridworld", "rl2"), {"ppo.gamma": 1.0})
    finished = summary([3.0], best=4.0)
    finished["eval"]["regret"] = statistics.summarise([1.0])
    (row,) = rows_of({"rl2": config}, {"rl2": finished}).values()
    assert row["regret"]["iqm"] == 1.0 and "regret_of_discount" not in row


def test_a_solution_may_know_regret_without_that_of_a_discount(monkeypatch):
    class Known(exact.ExactSolution):
        def regret(self, physics, action, reward):
            return np.zeros(reward.shape[1])

    monkeypatch.setattr(exact, "SOLUTIONS", dict(exact.SOLUTIONS))
    exact.register(Gridworld, Known)
    finished = summary([3.0], best=4.0)
    finished["eval"]["regret"] = statistics.summarise([1.0])
    (row,) = rows_of({"rl2": presets.default("gridworld", "rl2")}, {"rl2": finished}).values()
    assert isinstance(Known(None), exact.Regret) and row["regret"]["iqm"] == 1.0 and "regret_of_discount" not in row
