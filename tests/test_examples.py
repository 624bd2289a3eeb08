"""The programs of examples/, run small."""

import runpy
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


def test_a_search_by_optuna_goes_on_where_it_was_stopped(tmp_path, monkeypatch, capsys):
    optuna = pytest.importorskip("optuna", reason="Optuna is an extra: make setup EXTRAS=optuna")
    storage = f"sqlite:///{tmp_path / 'trials.db'}"
    arguments = ["--env", "probe_match", "--trials", "1", "--steps", "6400", "--seeds", "1", "--storage"]
    monkeypatch.setattr(sys, "argv", ["optuna_search.py", *arguments, storage])
    for number in (1, 2):
        runpy.run_path(str(EXAMPLES / "optuna_search.py"), run_name="__main__")
        assert f"{number} trials; the best return while training is" in capsys.readouterr().out
    study = optuna.load_study(study_name="probe_match dynamite 6400", storage=storage)
    first, second = study.trials
    assert first.params != second.params and study.best_value == max(first.value, second.value)
    assert 0.0 < first.user_attrs["return at the end"] < 20.0
