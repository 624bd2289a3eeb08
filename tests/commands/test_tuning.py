"""The random search: its settings, trials side by side, finalists, and what it writes."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from conftest import build, compiled, tiny_config
from dynamite_jax import config as configs
from dynamite_jax import presets
from dynamite_jax.commands import tune
from dynamite_jax.methods import METHODS
from dynamite_jax.runtime import tuning


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
