"""Importing changes no setting, and the package itself brings nothing heavy along."""

import subprocess
import sys

HEAVY = ("jax", "flax", "brax", "mujoco", "scipy", "matplotlib")
UNCHANGED = """
import logging, os, sys
import jax
def settings():
    known = {name: jax.config.values[name] for name in options}  # parts of JAX add options of their own when imported
    return dict(os.environ), known, sys.stdout, logging.getLogger("absl").level, logging.root.level
options = list(jax.config.values)
before = settings()
import dynamite_jax.train, dynamite_jax.evaluate, dynamite_jax.commands.tune
assert settings() == before
"""


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_package_brings_nothing_heavy_along():
    code = f"import sys, dynamite_jax; print([name for name in {HEAVY} if name in sys.modules])"
    assert run(code) == "[]\n"


def test_statistics_over_seeds_need_only_numpy():
    code = f"import sys, dynamite_jax.analysis.statistics; print([name for name in {HEAVY} if name in sys.modules])"
    assert run(code) == "[]\n"


def test_importing_changes_no_setting_and_prints_nothing():
    assert run(UNCHANGED) == ""
