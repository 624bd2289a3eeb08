"""Evaluation on episodes whose answers can be counted by hand."""

import json
import re

import jax
import numpy as np
import pytest

from conftest import tiny_config
from dynamite_envs import registry
from dynamite_envs.probes import Memory
from dynamite_jax import presets
from dynamite_jax.analysis import evaluation, readout, sessions
from dynamite_jax.analysis.report import report
from dynamite_jax.commands import evaluate
from dynamite_jax.runtime import loop, training
from dynamite_jax.runtime.program import Program

SESSION = np.array([0, 0, 0, 1, 1, 1, 2, 2])[None, :, None]  # [1, H, 1]


def test_session_returns_by_hand():
    reward = np.array([1.0, 1, 1, 0, 2, 2, 0, 5])[None, :, None]
    rows = sessions.session_returns(reward, SESSION)
    assert [row["return"] for row in rows] == [3.0, 4.0, 5.0]
    assert [row["reward_per_step"] for row in rows] == pytest.approx([1.0, 4 / 3, 2.5])


def test_sessions_that_an_episode_never_reaches_do_not_count():
    session = np.stack([[0, 0, 0, 0], [0, 0, 1, 1]], axis=1)[None]
    rows = sessions.session_returns(np.ones_like(session, float), session)
    assert [(row["return"], row["episodes"]) for row in rows] == [(3.0, 2), (2.0, 1)]


def test_recovery_counts_steps_from_the_switch():
    """One below, then half, then back at the level from before the switch: recovered at k = 2."""
    reward = np.array([1.0, 1, 1, 0, 0.5, 1.0, 1.0, 1.0])
    session = np.array([0, 0, 0, 1, 1, 1, 1, 1])

    def many(x):
        return np.repeat(x[None, :, None], 100, axis=2)

    recovery = sessions.recovery(many(reward), many(session))
    assert (recovery["before"], recovery["steps"]) == (1.0, 2)
    assert recovery["curve"] == [0.0, 0.5, 1.0, 1.0, 1.0]


def test_no_switch_has_no_recovery():
    session = np.zeros((1, 4, 100), int)
    assert sessions.recovery(np.ones((1, 4, 100)), session)["steps"] is None


def test_what_lies_behind_the_end_of_an_episode_is_not_counted():
    """The episodes end after step 4, in session 1; the end is no switch, and there is none after it."""
    session = np.where(np.arange(8) < 5, [0, 0, 0, 1, 1, 1, 2, 2], -1)
    reward = np.where(session >= 0, [1.0, 1, 1, 0, 0.95, 9, 9, 9], 0.0)

    def many(x):
        return np.repeat(x[None, :, None], 100, axis=2)

    rows = sessions.session_returns(many(reward), many(session))
    assert [(row["session"], row["return"]) for row in rows] == [(0, 3.0), (1, pytest.approx(0.95))]
    recovery = sessions.recovery(many(reward), many(session))
    assert (recovery["before"], recovery["curve"]) == (1.0, pytest.approx([0.0, 0.95]))
    predicted = many(np.array([0, 0, 0, 0, 1, 1, 1, 1], bool))
    assert sessions.detection(predicted, many(session), "evidence")["exact"] == {"precision": 1.0, "recall": 1.0}


@pytest.mark.parametrize(
    "steps, exact, late",
    [
        ([4, 7], (1.0, 1.0), (1.0, 1.0)),
        ([5, 7], (0.5, 0.5), (1.0, 1.0)),
        ([0, 4], (0.5, 0.5), (0.5, 0.5)),
        ([3], (0.0, 0.0), (0.0, 0.0)),
    ],
)
def test_detection_counts_hits(steps, exact, late):
    """Evidence of the switches before steps 3 and 6 is observed at steps 4 and 7."""
    predicted = np.zeros(SESSION.shape, bool)
    predicted[0, steps, 0] = True
    result = sessions.detection(predicted, SESSION, "evidence")
    assert (result["exact"]["precision"], result["exact"]["recall"]) == exact
    assert (result["late"]["precision"], result["late"]["recall"]) == late


def test_detection_of_nothing_is_no_number():
    result = sessions.detection(np.zeros(SESSION.shape, bool), np.zeros_like(SESSION), "evidence")
    assert result["exact"] == {"precision": None, "recall": None}


def test_a_run_is_evaluated_the_same_way_every_time(tmp_path, monkeypatch, capsys):
    config = tiny_config("gridworld", steps=1920)  # two chunks: after the first the remaining time is printed
    training.train(config, tmp_path / "run")
    results = []
    for _ in range(2):
        monkeypatch.setattr("sys.argv", ["evaluate", "--run", str(tmp_path / "run"), "--episodes", "128"])
        evaluate.main()
        results.append(json.loads((tmp_path / "run" / "evaluation.json").read_text()))
    assert results[0] == results[1]
    result = results[0]
    assert result["references"]["bayes_optimal"] == pytest.approx(46.15195, abs=1e-4)
    assert result["fraction_of_bayes_optimal"] == pytest.approx(result["return"]["iqm"] / 46.15195, abs=1e-5)
    for error in ("readout_error", "decoded_error"):
        assert 0.0 < result["belief"][error]["iqm"] < 0.6
    assert 0.0 < result["regret"]["iqm"] < 51.0
    output, progress = capsys.readouterr()
    assert "fraction of Bayes-optimal" in output and "regret" in output
    assert re.search(r"about \d+ seconds of training to go", progress)
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    keys = "env method preset eval env_steps encoder_updates encoder_steps policy_updates steps_per_s compile_s wall_s "
    keys += "peak_mb versions machine commit code meta_updates left_out checkpoint_s"
    assert set(summary) == set(keys.split())
    source = presets.source(presets.default("gridworld", "dynamite"))
    assert summary["preset"].startswith(source) and f"preset {summary['preset']};" in progress


def test_regret_is_the_missing_return_of_each_seed_and_unknown_for_the_oracle():
    results = {}
    for method in ("markov", "oracle"):
        config = tiny_config("gridworld", method)
        program = Program(config, registry.make("gridworld"))
        results[method] = evaluation.evaluate(program, program.init().agent_params, episodes=4096, seed=1)
    assert "regret" not in results["oracle"]
    missing = 46.15195 - np.array(results["markov"]["return"]["per_seed"])
    assert len(missing) == config.seeds > 1
    np.testing.assert_allclose(results["markov"]["regret"]["per_seed"], missing, atol=1.0)


def test_beliefs_over_eight_goals_are_measured_too():
    """Two numbers that nobody trained hold little of where eight goals are."""
    config = tiny_config("point_robot", env_options={"horizon": 20})
    program = Program(config, registry.make("point_robot", horizon=20))
    result = evaluation.evaluate(program, program.init().agent_params, episodes=256, seed=1)
    belief = result["belief"]
    assert belief.keys() == {"readout_error", "error_of_knowing_nothing"}  # rewards of single steps tell no posterior
    # A reward tells the goal for certain, so that most of the time seven of eight probabilities are nearly 0.
    assert 0.15 < belief["error_of_knowing_nothing"] < 2 * 7 / 64
    assert len(belief["readout_error"]["per_seed"]) == config.seeds
    assert 0.05 < belief["readout_error"]["iqm"] < 1.1 * belief["error_of_knowing_nothing"]
    assert result["references"] == {} and "regret" not in result
    report(result)


@pytest.mark.parametrize("method", ["dynamite", "oracle"])
def test_on_a_ring_posterior_and_oracle_are_known_but_not_the_bayes_optimal_return(method, capsys):
    program = Program(tiny_config("gridworld_ring4", method), registry.make("gridworld_ring4"))
    result = evaluation.evaluate(program, program.init().agent_params, episodes=256, seed=1)
    assert result["references"] == {"oracle": pytest.approx(44.549, abs=5e-4)}
    assert "regret" not in result and "fraction_of_bayes_optimal" not in result
    if method == "oracle":
        assert "belief" not in result
    else:
        belief = result["belief"]
        assert belief.keys() == {"readout_error", "decoded_error", "error_of_knowing_nothing"}
        assert 0.0 < belief["readout_error"]["iqm"] < 1.1 * belief["error_of_knowing_nothing"] < 0.4
    report(result)
    assert "oracle" in capsys.readouterr().out


def test_outcomes_are_counted_at_the_end_of_every_episode(monkeypatch, capsys):
    monkeypatch.setattr(Memory, "outcomes", lambda self, physics: {"steps made": physics, "success": physics == 10})
    config = tiny_config("probe_memory")
    env = registry.make("probe_memory")
    program = Program(config, env)
    result = evaluation.evaluate(program, program.init().agent_params, episodes=32, seed=1)
    assert result["outcomes"]["steps made"]["per_seed"] == [10.0] * config.seeds
    assert result["outcomes"]["success"]["iqm"] == 1.0
    report(result)
    assert "steps made" in capsys.readouterr().out


def test_fresh_contexts_are_not_those_of_training():
    """The evaluation's stream is no seed's stream, so an agent can't have met its episodes."""
    config = tiny_config("gridworld")
    program = Program(config, registry.make("gridworld"))
    trained = np.asarray(jax.random.key_data(program.init().key)).tolist()
    fresh = np.asarray(jax.random.key_data(jax.random.fold_in(jax.random.key(config.seed), 0x5EED))).tolist()
    assert fresh not in trained


# -- what can be read off a belief --------------------------------------------------------------------------------


def read(features, posterior):
    return float(jax.jit(readout.error)(features, posterior, jax.random.key(0)))


def test_a_posterior_that_is_shown_in_other_numbers_is_read():
    """Log-odds, mixed with numbers without information: the posterior is recovered."""
    odds = np.random.default_rng(0).normal(0, 2, (30, 256))
    posterior = jax.nn.softmax(np.stack([odds, -odds], -1))
    features = np.stack([odds + np.sin(odds), np.cos(odds), np.random.default_rng(1).normal(size=odds.shape)], -1)
    assert read(features, posterior) < 0.02


def test_a_posterior_that_is_not_shown_is_read_no_better_than_its_mean():
    odds = np.random.default_rng(0).normal(0, 2, (30, 1024))
    posterior = np.asarray(jax.nn.softmax(np.stack([odds, -odds], -1)))
    features = np.random.default_rng(1).normal(size=(30, 1024, 3))
    assert read(features, posterior) == pytest.approx(np.abs(posterior - 0.5).mean(), rel=0.1)


def test_reading_is_measured_on_episodes_that_the_reader_was_not_fitted_to():
    """Each episode shows a name of its own, and has a posterior of its own: to learn them by heart must not count."""
    names = np.random.default_rng(0).normal(size=(1, 128, 8)).repeat(30, 0)
    posterior = np.random.default_rng(1).dirichlet([0.2, 0.2], (1, 128)).repeat(30, 0)
    assert read(names, posterior) > 0.3


@pytest.mark.parametrize(
    "seconds, words", [(40.2, "40 seconds"), (100, "2 minutes"), (5000, "83 minutes"), (12600, "3.5 hours")]
)
def test_a_length_of_time_in_words(seconds, words):
    assert loop.duration(seconds) == words
