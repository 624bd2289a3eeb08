"""What a run is refused for before anything is compiled or claimed, and what a bare machine does without."""

import os
import subprocess
import sys

import pytest

from dynamite_jax.runtime.devices import compiler_options, unusable


@pytest.mark.parametrize("version", ["0.10.0", "0.10.2", "0.12.0.1", "0.11.0.dev20260101", "1.0.0"])
def test_physics_on_the_cpu_is_refused_where_it_can_hang(version):
    line = unusable(jaxlib_version=version, backend="cpu", mjx=True, x64=False)
    assert line and version in line and "jax==0.9.2" in line and "\n" not in line
    for backend, mjx in (("gpu", True), ("tpu", True), ("cpu", False)):
        assert unusable(jaxlib_version=version, backend=backend, mjx=mjx, x64=False) is None


@pytest.mark.parametrize("version", ["0.9.2", "0.9.10", "0.8.0"])
def test_physics_on_the_cpu_runs_where_it_never_hung(version):
    assert unusable(jaxlib_version=version, backend="cpu", mjx=True, x64=False) is None


def test_a_hang_is_refused_before_the_folder_is_claimed(tmp_path):
    code = (
        "import jax, sys; from dynamite_jax.commands import train; from dynamite_jax.runtime import devices\n"
        "devices.jaxlib.__version__ = '0.12.0'; train.main()"
    )
    flags = ["--env", "reacher", "--physics.impl", "jax", "--out", str(tmp_path / "run")]
    process = subprocess.run([sys.executable, "-c", code, *flags], capture_output=True, text=True)
    assert process.returncode == 2
    assert process.stderr.startswith("error: jaxlib is 0.12.0") and process.stderr.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_double_precision_is_refused_before_the_folder_is_claimed(tmp_path):
    line = [sys.executable, "-m", "dynamite_jax.train", "--env", "probe_match", "--out", str(tmp_path / "run")]
    process = subprocess.run(line, capture_output=True, text=True, env=os.environ | {"JAX_ENABLE_X64": "1"})
    assert process.returncode == 2, process.stderr
    assert process.stderr.startswith("error: JAX_ENABLE_X64 is on") and process.stderr.count("\n") == 1
    assert not (tmp_path / "run").exists()


def run(code: str, **environment: str) -> subprocess.CompletedProcess:
    places = ("HOME", "XDG_CACHE_HOME", "JAX_COMPILATION_CACHE_DIR")
    inherited = {name: value for name, value in os.environ.items() if name not in places}
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=inherited | environment)


SET_UP = """
import jax
from dynamite_jax.runtime import devices
devices.setup(1)
print(jax.config.jax_compilation_cache_dir, jax.jit(lambda x: x + 1)(1))
"""


def test_without_a_home_there_is_no_cache_and_a_line_says_so():
    homeless = "import os, pathlib, pwd\ndef gone(uid): raise KeyError(uid)\npwd.getpwuid = gone\n"
    process = run(homeless + SET_UP)
    assert process.returncode == 0, process.stderr
    assert process.stdout.split() == ["None", "2"]
    assert process.stderr.startswith("no compilation cache") and process.stderr.count("\n") == 1


def test_with_a_home_that_cannot_be_written_there_is_no_cache_and_a_line_says_so(tmp_path):
    (tmp_path / "file").touch()
    process = run(SET_UP, XDG_CACHE_HOME=str(tmp_path / "file"))
    assert process.stdout.split() == ["None", "2"]
    assert process.stderr.startswith("no compilation cache") and process.stderr.count("\n") == 1


def test_with_a_home_the_cache_lies_in_a_folder_of_its_own(tmp_path):
    process = run(SET_UP, XDG_CACHE_HOME=str(tmp_path))
    assert process.stdout.startswith(str(tmp_path / "dynamite_jax")) and process.stderr == ""


def test_where_the_system_counts_no_memory_none_is_reported():
    code = (
        "import sys; sys.modules['resource'] = None\nfrom dynamite_jax.runtime import devices\nprint(devices.peak_mb())"
    )
    process = run(code, HOME=os.environ.get("HOME", "/"))
    assert process.returncode == 0, process.stderr
    assert process.stdout.strip() == "None"


def test_the_compiler_tries_less_hard_where_a_program_runs_once(monkeypatch):
    name = "xla_backend_optimization_level"
    monkeypatch.delenv("XLA_FLAGS")
    assert (compiler_options(), compiler_options(runs_once=True)) == ({name: 2}, {name: 0})
    monkeypatch.setenv("XLA_FLAGS", f"--{name}=3")
    assert compiler_options() == compiler_options(runs_once=True) == {}
    monkeypatch.delenv("XLA_FLAGS")
    monkeypatch.setattr("jax.default_backend", lambda: "gpu")
    assert compiler_options() == {}
