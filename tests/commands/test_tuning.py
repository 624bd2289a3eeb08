"""The search of presets: its settings, the race, finalists, and what it writes."""

import dataclasses
import json
import math
from concurrent.futures import ThreadPoolExecutor

import jax
import numpy as np
import pytest

from conftest import build, compiled, tiny_config
from dynamite_envs.errors import UserError
from dynamite_jax import config as configs
from dynamite_jax import presets
from dynamite_jax.commands import tune
from dynamite_jax.methods import of_setting
from dynamite_jax.runtime import candidates, racing, tuning
from experiments.pages import write

NAN = float("nan")
CHUNK = 2 * 8 * 20  # steps of 2 meta-updates of 8 episodes of 20 steps


def four_chunks(method="dynamite", **changes):
    return tiny_config("probe_match", method, **{"steps": 4 * CHUNK, "ppo": {"lr": 1e-2}, **changes})


# -- what is searched ---------------------------------------------------------------------------------------------


def drawn(config, trials):
    return candidates.draw(config, candidates.belief_of(config), trials, seed=tuning.ROOT)


def schedules(config):
    return candidates.schedules(config, candidates.belief_of(config))


@pytest.mark.parametrize("method", of_setting("online"))
def test_each_schedule_starts_from_the_preset_and_trials_stay_within_bounds(method):
    config = presets.default("gridworld", method)
    ways = schedules(config)
    settings = drawn(config, 40 * len(ways))
    names = candidates.numbers(config, candidates.belief_of(config))
    for setting, way in zip(settings, ways, strict=False):
        assert configs.changed(config, setting) == configs.changed(config, way)
    assert configs.changed(config, settings[0]) == config
    assert all(way.items() <= setting.items() for way, setting in zip(ways * 40, settings, strict=True))
    others = settings[len(ways) :]
    for name in names:
        values, start = np.array([setting[name] for setting in others]), settings[0][name]
        ratio = (1 - values) / (1 - start) if name.startswith("ppo.gamma") else values / start
        assert 1 / candidates.FACTOR <= ratio.min() < 0.6 and 1.7 < ratio.max() <= candidates.FACTOR, name
    for setting in others:
        configs.validate(configs.changed(config, setting))


POLICY = ["ppo.lr", "ppo.entropy", "ppo.gamma", "ppo.gamma_start"]


@pytest.mark.parametrize(
    ("method", "used"),
    [
        ("dynamite", [*POLICY, "vae.lr", "vae.average_rate", "vae.kl_weight", "vae.consistency_weight"]),
        ("varibad", [*POLICY, "vae.lr", "vae.average_rate", "vae.kl_weight"]),
        ("secbad", [*POLICY, "vae.lr", "vae.average_rate", "vae.kl_weight"]),
        ("contrabar", [*POLICY, "vae.lr", "vae.average_rate"]),
        ("task_inference", [*POLICY, "vae.lr", "vae.average_rate"]),
        ("rl2", POLICY),
        ("oracle", POLICY),
        ("markov", POLICY),
    ],
)
def test_a_method_varies_the_numbers_that_it_uses(method, used):
    config = presets.default("gridworld", method)
    assert candidates.numbers(config, candidates.belief_of(config)) == used


@pytest.mark.parametrize("rise", [0.0, 0.5])
def test_the_discount_at_the_start_is_varied_where_it_rises(rise):
    config = four_chunks(ppo={"gamma_rise": rise})
    assert ("ppo.gamma_start" in candidates.numbers(config, candidates.belief_of(config))) == (rise > 0.0)


def test_the_average_of_the_weights_is_not_varied_where_the_policy_trains_them():
    config = four_chunks(ppo={"through_encoder": True})
    assert "vae.average_rate" not in candidates.numbers(config, candidates.belief_of(config))
    for setting in drawn(config, 20):
        configs.validate(configs.changed(config, setting))


def test_boundaries_without_labels_have_numbers_of_their_own():
    config = four_chunks(vae={"boundaries": "predicted", "boundary_rate": 0.5})
    assert candidates.numbers(config, candidates.belief_of(config))[-2:] == ["vae.boundary_rate", "vae.boundary_noise"]
    for setting in drawn(config, 50):
        configs.validate(configs.changed(config, setting))


PASSES = {"ppo.minibatches": 16, "ppo.epochs": 3}
OWN = PASSES | {"ppo.delay": 0.1, "vae.minibatches": 8, "vae.epochs": 2, "vae.trajectories": 32}
LATENT = [{}, {"ppo.delay": 0.0}, {"ppo.minibatches": 4, "vae.minibatches": 2, "ppo.delay": 0.0}]
LATENT += [{"ppo.epochs": 6}, {"vae.epochs": 4, "vae.trajectories": 0}]


@pytest.mark.parametrize(
    ("method", "own", "ways"),
    [
        *((m, OWN | {"vae.decode_terms": 4}, [*LATENT, {"vae.decode_terms": 16}]) for m in ("dynamite", "varibad")),
        ("contrabar", OWN, LATENT),
        *((m, PASSES, [{}, {"ppo.minibatches": 4}, {"ppo.epochs": 6}]) for m in ("rl2", "oracle", "markov")),
    ],
)
def test_schedules_are_those_that_a_method_uses(method, own, ways):
    vae = {"minibatches": 8, "epochs": 2, "trajectories": 32, "decode_terms": 4}
    config = tiny_config(
        "probe_match", method, num_envs=64, steps=10_000, vae=vae, ppo={"minibatches": 16, "epochs": 3, "delay": 0.1}
    )
    assert schedules(config) == [own | way for way in ways]


def test_schedules_that_are_alike_are_one():
    config = tiny_config("probe_match", vae={"minibatches": 1, "decode_terms": 0}, ppo={"minibatches": 1})
    own, *others = schedules(config)
    assert configs.changed(config, own) == config
    assert others == [own | {"ppo.epochs": 4}, own | {"vae.epochs": 2}]


def test_larger_minibatches_divide_what_is_divided():
    config = tiny_config("probe_match", num_envs=72, steps=10_000, vae={"minibatches": 9}, ppo={"minibatches": 18})
    for way in schedules(config):
        configs.validate(configs.changed(config, way))
    assert schedules(config)[1]["ppo.minibatches"] == 3 and schedules(config)[1]["vae.minibatches"] == 1


def test_every_schedule_of_every_preset_can_run():
    for env in ("gridworld", "point_robot", "probe_match"):
        for method in of_setting("online"):
            config = presets.default(env, method)
            assert 2 <= len(schedules(config)) <= 6
            for way in schedules(config):
                configs.validate(configs.changed(config, way))


def test_every_method_meets_the_same_factors():
    settings = {method: drawn(presets.default("gridworld", method), 12)[5:] for method in of_setting("online")}
    lr = {m: presets.default("gridworld", m).ppo.lr for m in of_setting("online")}
    for method in of_setting("online"):
        ratios = [[trial["ppo.lr"] / lr[m] for trial in settings[m]] for m in (method, "dynamite")]
        np.testing.assert_allclose(*ratios, rtol=1e-6)


# -- the race -----------------------------------------------------------------------------------------------------


def test_rungs_double():
    assert racing.stops(8, 3) == [2, 4, 8]
    assert racing.stops(9, 3) == [3, 5, 9]
    assert racing.stops(5, 1) == [5]


def test_the_better_part_goes_on():
    assert racing.better({0: 1.0, 1: 5.0, 4: 3.0, 6: 4.0}, 0.5) == [1, 6]
    assert racing.better({0: 1.0, 1: 5.0, 4: 3.0}, 0.5) == [1, 4]
    assert racing.better({0: NAN, 1: 5.0, 4: math.inf, 6: NAN}, 0.75) == [1]
    assert racing.better({trial: float(trial) for trial in range(100)}, 0.55) == [*range(99, 44, -1)]


def test_survivors_go_on_as_if_nothing_had_stopped(monkeypatch):
    """An agent of the race ends as if it had been trained alone, without a stop, with its setting and its seed."""
    config = four_chunks("rl2", seeds=1, steps=5 * CHUNK)
    numbers = ((1e-2, 1, 0.9), (3e-3, 2, 0.9), (1e-3, 1, 0.8), (3e-3, 1, 0.7))
    settings = [{"ppo.lr": lr, "ppo.epochs": epochs, "ppo.gamma": gamma} for lr, epochs, gamma in numbers]
    ranked, sizes, ended = [], [], []

    def better(scores, keep):
        ranked.append(set(scores))
        return [3, 2]

    def evaluate(program, params, episodes, seed):
        ended.append(params)
        return {"return": {"per_seed": [4.0, 5.0]}}

    class Recorded(racing.Program):
        def compile(self, states, hyper=None):
            sizes.append(self.config.seeds)
            return super().compile(states, hyper)

    monkeypatch.setattr(racing, "better", better)
    monkeypatch.setattr(racing, "evaluate", evaluate)
    monkeypatch.setattr(racing, "Program", Recorded)
    outcome = racing.race(config, settings, rungs=2, progress=False)
    assert ranked == [{0, 1, 2, 3}] and sizes == [3, 1, 2]  # two structures, one of which is out; three are padded
    assert [len(scores) for scores in outcome.scores] == [1, 1, 2, 2] and outcome.steps == [3 * CHUNK, 5 * CHUNK]
    np.testing.assert_array_equal(outcome.returns, [NAN, NAN, 4.0, 5.0])

    alone = configs.changed(config, settings[2])
    program, states = build(alone)
    returns = []
    for _ in range(program.chunks):
        states, metrics = compiled(alone)(states)
        returns.append(float(metrics["return"][0]))
    np.testing.assert_allclose(outcome.scores[2], [np.mean(returns[:3]), np.mean(returns)], rtol=1e-4)
    expected = program.algorithm.agent_params(states)
    for a, b in zip(jax.tree.leaves(ended[0]), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(np.asarray(a)[:1], np.asarray(b), rtol=1e-3, atol=1e-5)


def test_those_that_learn_go_on_and_what_is_not_finite_is_out():
    settings = [{"ppo.lr": lr} for lr in (1e-9, 2e-2, 1e30, 1e-2)]
    outcome = racing.race(four_chunks("oracle", steps=12 * CHUNK), settings, rungs=2, progress=False, keep=0.5)
    assert [len(scores) for scores in outcome.scores] == [1, 2, 1, 2] and np.isnan(outcome.scores[2][0])
    np.testing.assert_array_equal(np.isfinite(outcome.returns), [False, True, False, True])
    assert outcome.training_s > 0 and outcome.compiling_s > 0


# -- the choice, and its record -----------------------------------------------------------------------------------


def search_once(tmp_path, monkeypatch, outcomes):
    """The record of a search whose outcomes are given: of four trials, then of two finalists."""
    config = four_chunks("markov")
    searches, remaining = [], iter(outcomes)

    def race(config, settings, **options):
        searches.append((config, settings, options))
        return next(remaining)

    monkeypatch.setattr(presets, "TUNED", tmp_path)
    monkeypatch.setattr(presets, "default", lambda env, method: config)
    monkeypatch.setattr(racing, "race", race)
    flags = "--env probe_match --methods markov --trials 4 --seeds 3 --out"
    monkeypatch.setattr("sys.argv", ["tune", *flags.split(), str(tmp_path)])
    tune.main()
    return json.loads((tmp_path / "probe_match_markov.json").read_text()), searches


def test_the_best_trials_train_again_from_the_start_with_other_seeds(tmp_path, monkeypatch):
    scores = [[1.0, 9.0], [NAN], [3.0, 4.0, 5.5], [2.0, 3.0, 4.5]]
    first = racing.Outcome([CHUNK, 2 * CHUNK, 4 * CHUNK], scores, [NAN, NAN, 4.0, 5.0], training_s=2.0, compiling_s=3.0)
    second = racing.Outcome([4 * CHUNK], [[6.0], [7.0]], [3.0, 2.0], training_s=0.5, compiling_s=1.0)
    record, ((trial, settings, options), (final, finalists, _)) = search_once(tmp_path, monkeypatch, [first, second])
    assert options == {"rungs": 3, "keep": 0.5, "progress": True}
    assert finalists == [settings[2], settings[3]] and record["changes"] == settings[3]
    assert (trial.steps, final.steps, trial.seeds, final.seeds) == (
        4 * CHUNK,
        4 * CHUNK,
        3,
        6,
    ) and trial.seed != final.seed
    assert record["steps"] == [4 * CHUNK] * 2 and record["agents"] == [3, 6] and record["trials"] == 4
    assert record["root_seeds"] == [trial.seed, final.seed] and record["rungs"] == [CHUNK, 2 * CHUNK, 4 * CHUNK]
    assert [one["return"] for one in record["searched"]] == [None, None, 4.0, 5.0]
    assert [one["steps"] for one in record["searched"]] == [2 * CHUNK, CHUNK, 4 * CHUNK, 4 * CHUNK]
    assert [one["scores"] for one in record["searched"]] == [[1.0, 9.0], [None], *scores[2:]]
    assert [one["return"] for one in record["finalists"]] == [3, 2]
    assert [one["scores"] for one in record["finalists"]] == [[6], [7]]
    assert record["seconds"] == {"training": 2.5, "compiling": 4.0}
    assert record["machine"]["cores"] >= 1 and record["versions"]["jax"] == jax.__version__ and "commit" in record


def test_a_search_without_a_finite_trial_says_so(tmp_path, monkeypatch, capsys):
    out = racing.Outcome([CHUNK], [[NAN]] * 4, [NAN] * 4)
    for outcomes, cause in (
        ([out], "every trial"),
        ([dataclasses.replace(out, scores=[[1.0]] * 4), out], "every final"),
    ):
        with pytest.raises(SystemExit) as stop:
            search_once(tmp_path, monkeypatch, outcomes)
        assert stop.value.code == 2 and cause in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_search_writes_beside_the_runs_where_runs_from_there_find_it(tmp_path, monkeypatch):
    monkeypatch.setattr(presets, "SHIPPED", tmp_path / "shipped")
    presets.SHIPPED.mkdir()
    (presets.SHIPPED / "gridworld_dynamite.json").write_text('{"changes": {"ppo.clip": 0.3}, "trials": 5}')
    before = {path.name: path.read_bytes() for path in presets.SHIPPED.iterdir()}

    def race(config, settings, **options):
        return racing.Outcome([1], [[float(n)] for n, _ in enumerate(settings)], [1.0 for _ in settings])

    monkeypatch.setattr(racing, "race", race)
    flags = ["--env", "gridworld", "--methods", "dynamite", "--trials", "3", "--finalists", "1"]
    monkeypatch.setattr("sys.argv", ["tune", *flags])
    shipped = presets.default("gridworld", "dynamite")
    assert presets.source(shipped) == "dynamite_jax/tuned/gridworld_dynamite.json of the package"
    trials = presets.tuning_trials(shipped)
    monkeypatch.chdir(tmp_path)
    tune.main()
    here = presets.default("gridworld", "dynamite")
    record = json.loads((tmp_path / "runs" / "tuned" / "gridworld_dynamite.json").read_text())
    chosen = {name: value for name, value in record["finalists"][0].items() if name not in ("return", "scores")}
    assert here == configs.changed(shipped, chosen) != shipped
    assert presets.source(here) == "runs/tuned/gridworld_dynamite.json"
    assert presets.tuning_trials(here) == trials + 3 == record["trials"]
    assert {path.name: path.read_bytes() for path in presets.SHIPPED.iterdir()} == before
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert presets.default("gridworld", "dynamite") == shipped


def test_the_choice_of_a_search_becomes_the_preset(tmp_path, monkeypatch):
    config = four_chunks("markov")
    monkeypatch.setattr(presets, "TUNED", tmp_path)
    monkeypatch.setattr(presets, "default", lambda env, method: config)
    flags = "--env probe_match --methods markov --trials 3 --seeds 1 --rungs 2 --out"
    monkeypatch.setattr("sys.argv", ["tune", *flags.split(), str(tmp_path)])
    tune.main()
    monkeypatch.undo()
    record = json.loads((tmp_path / "probe_match_markov.json").read_text())
    assert len(record["searched"]) == 3 and len(record["finalists"]) == 2
    assert sorted(len(one["scores"]) for one in record["searched"]) == [1, 2, 2]
    assert all((one["return"] is None) == (one["steps"] < 4 * CHUNK) for one in record["searched"])
    best = max(record["finalists"], key=lambda one: one["scores"][-1])
    assert record["changes"] == {name: value for name, value in best.items() if name not in ("return", "scores")}
    monkeypatch.setattr(presets, "TUNED", tmp_path)
    tuned = presets.default("probe_match", "markov")
    assert tuned.ppo.lr == best["ppo.lr"] and presets.tuning_trials(tuned) == 3
    assert presets.tuning_trials(configs.changed(tuned, {"ppo.lr": 2 * tuned.ppo.lr})) == 0
    assert presets.tuning_trials(presets.default("probe_match", "markov", "accelerator")) == 0


def test_methods_are_tuned_in_threads_as_one_after_the_other():
    def search(method):
        record = tuning.tune(four_chunks(method), trials=2, seeds=1, rungs=1, finalists=1, progress=False)
        return {name: record[name] for name in ("method", "changes", "searched", "finalists")}

    methods = ["markov", "oracle"]
    with ThreadPoolExecutor(2) as threads:
        together = list(threads.map(search, methods))
    assert together == [search(method) for method in methods]


def test_the_table_of_searches_shows_each_record(tmp_path):
    one = {"env": "reef", "method": "rl2", "changes": {"ppo.lr": 0.5}, "trials": 8, "steps": [2_000_000] * 2}
    one |= {"rungs": [1_000_000, 2_000_000], "seconds": {"training": 61.2, "compiling": 2.0}}
    one["finalists"] = [{"return": 1.5, "scores": [1.0], "ppo.lr": 0.5}]
    other = {**one, "env": "fog", "rungs": [537_600, 1_000_000, 2_000_000], "changes": {"ppo.epochs": 4}}
    other |= {"seconds": {"training": 1234.5, "compiling": 20.0}}
    other["finalists"] = [{"return": None, "scores": [None]}, {"return": 2.0, "scores": [3.0]}]
    for name, record in (("a", other), ("b", one)):
        (tmp_path / f"{name}.json").write_text(json.dumps(record))
    assert write.searches(tmp_path).splitlines()[2:] == [
        "| `fog` | `rl2` | 8 | 0.538, 1, 2 M / 2 M | 1,234 | -, 3.00 | 4 | - |",
        "| `reef` | `rl2` | 8 | 1, 2 M / 2 M | 61 | 1.00 | - | 0.5 |",
    ]


# -- refusals -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "cause"),
    [
        ("--trials 0", "trials is 0; it must be 1 or more"),
        ("--seeds -1", "seeds is -1; it must be 1 or more"),
        ("--rungs 0", "rungs is 0; it must be 1 or more"),
        ("--finalists 0", "finalists is 0; it must be 1 or more"),
        ("--keep 0", "keep is 0.0; it must be above 0 and at most 1"),
        ("--keep 1.5", "keep is 1.5; it must be above 0 and at most 1"),
        ("--keep nan", "keep is nan; it must be above 0 and at most 1"),
        ("--steps 0", "steps is 0; it must be 1 or more"),
        ("--steps 100", "steps is 100; one meta-update takes"),
        ("--methods markov dynamit", "method is 'dynamit'; did you mean 'dynamite'"),
        ("--env probe_match --steps 20000 --rungs 9", "rungs is 9; with 20000 steps"),
    ],
)
def test_a_search_that_can_not_be_made_is_refused(flags, cause, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(racing, "race", None)
    monkeypatch.setattr("sys.argv", ["tune", *flags.split(), "--out", str(tmp_path / "tuned")])
    with pytest.raises(SystemExit) as stop:
        tune.main()
    assert stop.value.code == 2 and capsys.readouterr().err.startswith(f"error: {cause}")
    assert not list(tmp_path.iterdir())


def test_rungs_are_as_many_as_chunks_allow():
    options = {"trials": 4, "seeds": 1, "keep": 0.5, "finalists": 1}
    for chunks in range(1, 12):
        config = four_chunks(steps=CHUNK * chunks)
        most = max(rungs for rungs in range(1, 9) if len(set(racing.stops(chunks, rungs))) == rungs)
        tuning.check(config, rungs=most, **options)
        with pytest.raises(UserError, match=f"^rungs is {most + 1}; .* at most {most}$"):
            tuning.check(config, rungs=most + 1, **options)
