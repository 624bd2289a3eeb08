"""Importing changes no setting, and brings nothing along that is not needed yet."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from dynamite_jax.cli import COMMANDS

HEAVY = ("jax", "flax", "brax", "mujoco", "scipy", "matplotlib")
LOADED = f"import sys; loaded = [name for name in {HEAVY} if name in sys.modules]"
RUN = Path(__file__).parent / "files" / "run_v0"


def run(code: str, *words: str) -> str:
    # MUJOCO_GL makes MuJoCo set other variables.
    environment = {name: value for name, value in os.environ.items() if name != "MUJOCO_GL"}
    process = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, env=environment)
    assert process.returncode == 0, process.stderr
    return process.stdout


def cpu_seconds(*line: str) -> float:
    """Processor time of a Python process and of its children, in s."""
    code = (
        "import resource, subprocess, sys; subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL)\n"
        "used = resource.getrusage(resource.RUSAGE_CHILDREN); print(used.ru_utime + used.ru_stime)"
    )
    return float(run(code, sys.executable, *line))


def over(line: list[str], libraries: str) -> float:
    """Processor time of a Python process over that of what it needs of libraries; least of three, others only add."""
    times = [(cpu_seconds(*line), cpu_seconds("-c", libraries)) for _ in range(3)]
    ours, theirs = (min(column) for column in zip(*times, strict=True))
    return ours / theirs


# -- what is imported ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "module",
    ["dynamite_jax", "dynamite_jax.config", "dynamite_jax.analysis.statistics", "dynamite_jax.runtime.devices"],
)
def test_a_light_module_brings_nothing_heavy_along(module):
    assert run(f"import {module}; {LOADED}; print(loaded)") == "[]\n"


@pytest.mark.parametrize("command", COMMANDS)
def test_help_is_given_without_anything_heavy(command):
    code = f"from dynamite_jax import cli\ntry: cli.main()\nfinally: {LOADED}; print('loaded', loaded)"
    *usage, last = run(code, command, "--help").splitlines()
    assert usage[0].startswith(f"usage: dynamite-jax {command} ") and last == "loaded []"


@pytest.mark.parametrize("module", [module for module, _ in COMMANDS.values()])
def test_a_command_that_is_run_as_a_module_has_the_same_name(module):
    process = subprocess.run([sys.executable, "-m", module, "--help"], capture_output=True, text=True)
    names = {module: name for name, (module, _) in COMMANDS.items()}
    assert process.stdout.startswith(f"usage: dynamite-jax {names[module]} "), process.stderr


def test_a_run_is_plotted_without_jax(tmp_path):
    code = f"from dynamite_jax import cli; cli.main(); {LOADED}; print(loaded)"
    assert run(code, "plot", "--runs", str(RUN), "--out", str(tmp_path / "a.png")).endswith("['matplotlib']\n")


# -- what it costs ------------------------------------------------------------------------------------------------


def test_training_imports_few_modules_beside_those_of_jax():
    code = "import sys, jax; jax = len(sys.modules); import dynamite_jax.runtime.training; print(jax, len(sys.modules))"
    before, after = map(int, run(code).split())
    assert after - before < 0.6 * before


def test_a_plot_brings_fewer_modules_than_jax(tmp_path):
    jax = int(run("import sys, jax; print(len(sys.modules))"))
    code = "import sys; from dynamite_jax import cli; cli.main(); print(len(sys.modules))"
    assert int(run(code, "plot", "--runs", str(RUN), "--out", str(tmp_path / "a.png")).split()[-1]) < jax


PICTURE = """
import tyro
from matplotlib.backends import backend_agg
from matplotlib.figure import Figure
figure = Figure(layout="constrained")
figure.add_subplot().plot([1, 2], label="a")
figure.legend()
figure.savefig({path!r}, dpi=130)
"""


# What the libraries take varies by a tenth from one idle machine to the next, held against jax alone; ours does not.
def test_training_is_imported_in_little_more_than_its_libraries():
    line = ["-c", "import dynamite_jax.runtime.training"]
    assert over(line, "import jax, optax, flax.linen, rich.console, rich.table") < 1.3  # 1.1


def test_a_run_is_plotted_in_little_more_than_any_picture(tmp_path):
    line = ["-m", "dynamite_jax", "plot", "--runs", str(RUN), "--out", str(tmp_path / "a.png")]
    assert over(line, PICTURE.format(path=str(tmp_path / "b.png"))) < 1.4  # 1.16


# -- what it changes ----------------------------------------------------------------------------------------------

SETTINGS = """
import logging, os, pkgutil, sys
import jax
options = list(jax.config.values)  # parts of JAX add options of their own when imported
def settings():
    loggers = logging.root, *(logging.getLogger(name) for name in ("absl", "jax", "orbax", "matplotlib"))
    return (
        dict(os.environ), {name: jax.config.values[name] for name in options}, sys.stdout, sys.stderr,
        [logger.level for logger in loggers],
    )
"""
IMPORTED = """
import gymnasium  # sets a variable of its own
import matplotlib
backend = matplotlib.rcParams._get("backend")  # unread, since reading it chooses one
before = settings()
import dynamite_envs, dynamite_jax
count = 0
for package in (dynamite_envs, dynamite_jax):
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        if module.name.removeprefix("dynamite_jax.") not in ("__main__", "train", "evaluate"):  # programs
            __import__(module.name)
            assert settings() == before and matplotlib.rcParams._get("backend") is backend, module.name
            count += 1
assert count > 50
"""
TRAINED = """
import pathlib
import dynamite_jax
dynamite_jax.setup(1)
from conftest import tiny_config
before = settings()
from dynamite_jax.runtime import training
training.train(tiny_config("probe_match", "markov", steps=160, chunk=1, seeds=1), pathlib.Path(sys.argv[1]))
after = settings()
assert after == before, [(a, b) for a, b in zip(before, after) if a != b]
"""


def test_importing_any_module_changes_no_setting_and_prints_nothing():
    assert run(SETTINGS + IMPORTED) == ""


def test_training_changes_no_setting(tmp_path):
    folder = Path(__file__).parent
    path = f"import sys; sys.path[:0] = {[str(folder), str(folder / 'support')]!r}"
    run(path + SETTINGS + TRAINED, str(tmp_path / "run"))
