"""Programs watched from outside, weights from one to the other, and the sizes that are compared."""

import dataclasses
import json
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from conftest import build, tiny_config
from dynamite_envs.errors import UserError
from dynamite_jax import config as configs
from dynamite_jax import presets
from dynamite_jax.agents.running_statistics import Quantities, with_moments
from dynamite_jax.data.rollout import play
from experiments.versus_torch import benchmark, jax_program
from experiments.versus_torch.report import draw, ratios, report
from experiments.versus_torch.torch_reference import weights
from experiments.versus_torch.watched import watch

TALKS = """
import json, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; block = bytearray(150_000_000); time.sleep(60)"])
print("a word")
for k in range(1, 40):
    print(json.dumps({"steps": 1000 * k, "return": k, "seconds": 1e9, "own": time.perf_counter()}), flush=True)
    time.sleep(0.1)
"""


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def test_speed_and_memory_of_a_program_and_its_children_are_seen():
    watched = watch(python(TALKS), limit_s=60.0, enough=lambda lines: len(lines) == 12)
    assert [line["steps"] for line in watched.lines] == list(range(1000, 13000, 1000))
    own = 11_000 / (watched.lines[-1]["own"] - watched.lines[0]["own"])  # by its own clock
    assert watched.rate == pytest.approx(own, rel=0.05)
    assert 150 < watched.peak_mb < 400
    assert watched.stopped
    assert watched.start_s == watched.lines[0]["seconds"]


@pytest.mark.parametrize("name", ["test_torch_program.py", "test_torch_reference.py"])
def test_comparisons_are_skipped_where_pytorch_is_not_installed(name):
    code = "import sys, pytest; sys.modules['torch'] = None; raise SystemExit(pytest.main(sys.argv[1:]))"
    command = [*python(code), "-q", "-p", "no:cacheprovider", str(Path(__file__).with_name(name))]
    done = subprocess.run(command, capture_output=True, text=True)
    assert "1 skipped" in done.stdout and "PyTorch is an extra" in done.stdout and "error" not in done.stdout


def test_what_a_program_started_ends_with_it(tmp_path):
    beats = tmp_path / "beats"
    code = f"""
import json, subprocess, sys, time
loop = "import time\\nwhile True: open({str(beats)!r}, 'a').write('.'); time.sleep(0.02)"
subprocess.Popen([sys.executable, "-c", loop])
for k in range(1, 1000): print(json.dumps({{"steps": k}}), flush=True); time.sleep(0.1)
"""
    watch(python(code), limit_s=60.0, enough=lambda lines: beats.exists() and len(lines) > 3)
    before = beats.stat().st_size
    time.sleep(0.3)
    assert beats.stat().st_size == before


def test_a_program_is_stopped_at_the_limit():
    start = time.perf_counter()
    watched = watch(python(TALKS), limit_s=1.5)
    assert time.perf_counter() - start < 10.0
    assert len(watched.lines) >= 2
    assert watched.stopped


def test_a_program_that_comes_to_its_end_was_not_stopped():
    code = 'import json\nfor k in (1, 2): print(json.dumps({"steps": k}))'
    assert not watch(python(code), limit_s=60.0).stopped


@pytest.mark.parametrize(
    "command, named",
    [
        (["/no/such/program"], "can't be run"),
        ([], "can't be run"),
        (python("import os, signal; print('x', flush=True); os.kill(os.getpid(), signal.SIGSEGV)"), "exit code -11"),
        (python("raise SystemExit('it is broken')"), "it is broken"),
        (python('print(1); print("[]"); print("{}")'), "0 lines with steps"),
    ],
)
def test_what_measures_nothing_is_refused_in_one_line(command, named):
    with pytest.raises(UserError, match=named) as caught:
        watch(command, limit_s=30.0)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("env", ["gridworld", "halfcheetah_vel"])
@pytest.mark.parametrize("num_envs", [4, 16, 64, 256, 1024, 4096, 16384])
def test_every_size_is_a_config_that_runs(env, num_envs):
    preset = presets.default(env, "dynamite")
    config = benchmark.sized(preset, num_envs)
    configs.validate(config)
    assert config.num_envs == num_envs
    if num_envs >= preset.num_envs:
        assert config.ppo.minibatches == preset.ppo.minibatches
        assert config.vae.minibatches == preset.vae.minibatches
    same = {"steps": preset.steps, "vae.trajectories": preset.vae.trajectories}
    assert configs.changed(benchmark.sized(preset, preset.num_envs), same) == preset


@pytest.mark.parametrize("env", benchmark.CUSTOMARY)
def test_the_customary_size_is_a_config_that_runs(env):
    config = configs.changed(presets.default(env, "dynamite"), benchmark.CUSTOMARY[env])
    configs.validate(config)
    assert config.num_envs == 16


def test_weights_that_were_saved_act_as_before(tmp_path):
    config = tiny_config("gridworld")
    program, states = build(config)
    acting = jax.tree.map(lambda x: x[0], jax.device_get(states.agent_params))
    rng = np.random.default_rng(0)
    shapes = [x.value.shape for x in acting.normaliser.mean]
    acting = acting.replace(  # running means that are not 0 and deviations that are not 1
        normaliser=with_moments(
            Quantities(*(rng.normal(size=shape).astype(np.float32) for shape in shapes)),
            Quantities(*(rng.uniform(0.5, 2.0, shape).astype(np.float32) for shape in shapes)),
        )
    )
    weights.save(tmp_path / "1.npz", jax_program.arrays(acting))
    with np.load(tmp_path / "1.npz") as arrays:
        back = jax_program.agent_params(dict(arrays), jax.tree.map(np.zeros_like, acting))

    def rewards(acting):
        keys = jax.random.split(jax.random.key(0), config.num_envs)
        start = jax.vmap(program.env.reset)(keys)
        return play(program.agent, program.env, acting, start, jax.random.key(1))[0]

    jax.tree.map(np.testing.assert_array_equal, rewards(back), rewards(acting))


def test_our_program_says_how_far_it_is(tmp_path):
    config = dataclasses.replace(tiny_config("gridworld"), steps=8 * 60 * 6)  # three chunks of two episodes
    configs.save(config, tmp_path / "config.json")
    command = [sys.executable, "-m", "experiments.versus_torch.jax_program", "--config", str(tmp_path / "config.json")]
    watched = watch([*command, "--snapshots", str(tmp_path)], limit_s=300.0)
    assert not watched.stopped
    assert [line["steps"] for line in watched.lines] == [2 * 960, 4 * 960, 6 * 960]  # of both seeds
    for line in watched.lines:
        with np.load(line["snapshot"]) as arrays:
            assert arrays["deviation.reward"].shape == ()


@pytest.mark.parametrize(
    "flags",
    [
        ["--repeats", "0"],
        ["--sizes", "0"],
        ["--reference-command", " "],
        ["--seeds", "-1"],
        ["--limit", "0"],
        ["--sizes", "48"],
    ],
)
def test_a_bad_argument_is_one_line_and_exit_code_2(flags, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(sys, "argv", ["benchmark", *flags, "--out", str(tmp_path)])
    with pytest.raises(SystemExit) as stop:
        benchmark.main()
    assert stop.value.code == 2
    output = capsys.readouterr().err
    assert len(output.splitlines()) == 1
    assert flags[0].removeprefix("--").replace("-", "_") in output
    assert not list(tmp_path.iterdir())


def test_the_report_gives_ratios_of_medians(tmp_path):
    def timed(rate):
        cell = {"median": rate, "least": 0.9 * rate, "greatest": 1.1 * rate}
        return {"steps_per_s": cell, "start_s": cell, "peak_mb": cell}

    curve = [{"seconds": 1.0, "steps": 1, "return": 3.5}]
    results = {
        "env": "gridworld",
        "machine": {"cores": 2, "processor": "p", "device": "cpu"},
        "versions": {"jax": "1"},
        "customary": {"layout": (2, 1), "layouts": {"a": 1.0}, "ours": timed(9000.0), "theirs": timed(200.0)},
        "growth": [
            {"num_envs": 16, "ours": 5000.0, "ours_mb": 900.0, "theirs": 100.0, "theirs_mb": 250.0},
            {"num_envs": 64, "ours": 8000.0, "ours_mb": 901.0, "theirs": 400.0, "theirs_mb": 251.0},
            {"num_envs": 4096, "ours": 7000.0, "ours_mb": 902.0, "theirs": 0.0, "theirs_mb": 0.0},
        ],
        "seeds": [{"seeds": 1, "ours": 10.0, "times_one": 1.0}, {"seeds": 8, "ours": 40.0, "times_one": 2.0}],
        "to_return": {
            "target": 41.5,
            "episodes": 512,
            "ours": [{"seconds": 12.34, "curve": curve}],
            "theirs": [{"seconds": None, "watched_s": 600.0, "curve": curve}],
        },
    }
    assert ratios(results) == {"ratio_customary": pytest.approx(45.0), "ratio_at_best": pytest.approx(20.0)}
    assert ratios({}) == {}
    text = "\n".join(report(json.loads(json.dumps(results))))
    for line in ("Ratio of medians: 45.00", "8,000 and 400 steps/s, 20.00 times", "| 8 | 40 | 2.00 |", "12.3"):
        assert line in text
    assert "not within 600 (best 3.5)" in text
    assert "| 64 | 8,000 | 901 | 400 | 251 | 20.0 |" in text
    assert "| 4,096 | 7,000 | 902 | - | - | - |" in text
    draw(results, tmp_path / "drawn.png")
    assert (tmp_path / "drawn.png").stat().st_size > 10_000
