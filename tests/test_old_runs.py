"""A run folder of schema 0, made before configs and checkpoints had one, is still of use."""

import json
import shutil
from pathlib import Path

import pytest

from dynamite_jax import config as configs
from dynamite_jax.commands import evaluate, plot

DATA = Path(__file__).parent / "files" / "run_v0"


@pytest.fixture
def run(tmp_path) -> Path:
    return Path(shutil.copytree(DATA, tmp_path / "run"))


def test_its_config_reads_as_the_run_that_it_was(run):
    saved = json.loads((run / "config.json").read_text())
    assert "schema" not in saved and saved["env_options"] == ["horizon=10"]
    config = configs.load(run / "config.json")
    assert config.env_options == {"horizon": 10} and configs.validate(config).horizon == 10
    assert (config.network.hidden, config.ppo.lr) == (saved["network"]["hidden"], saved["ppo"]["lr"])


def test_it_evaluates_to_what_it_did_then(run, monkeypatch, capsys):
    """The same 128 episodes: other processors may choose another of two actions that are all but equal."""
    then = json.loads((run / "evaluation.json").read_text())
    (run / "evaluation.json").unlink()
    monkeypatch.setattr("sys.argv", ["evaluate", "--run", str(run), "--episodes", "128"])
    evaluate.main()
    now = json.loads((run / "evaluation.json").read_text())
    assert now["chunk"] == then["chunk"] == 2
    assert now["return"]["per_seed"] == pytest.approx(then["return"]["per_seed"], abs=0.1)
    assert now["references"] == pytest.approx(then["references"])
    out, err = capsys.readouterr()
    assert "bayes-optimal" in out and err == ""


def test_an_evaluation_that_can_not_be_written_is_printed_first(run, monkeypatch, capsys):
    (run / "evaluation.json").unlink()
    (run / "evaluation.json").mkdir()
    monkeypatch.setattr("sys.argv", ["evaluate", "--run", str(run), "--episodes", "16"])
    with pytest.raises(SystemExit) as stop:
        evaluate.main()
    out, err = capsys.readouterr()
    assert stop.value.code == 2 and "fraction of Bayes-optimal" in out
    assert err == f"error: evaluation is '{run / 'evaluation.json'}', which can't be written: Is a directory\n"


def test_it_plots(run, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["plot", "--runs", str(run), "--out", str(tmp_path / "curve.png")])
    plot.main()
    assert (tmp_path / "curve.png").stat().st_size > 1000
    assert capsys.readouterr().out == f"{tmp_path / 'curve.png'}\n"
