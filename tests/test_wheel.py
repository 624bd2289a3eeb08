"""What users install: a wheel that works outside a checkout, and takes no name that is theirs."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from dynamite_jax import presets

CHECKOUT = Path(__file__).parents[1]
TINY = "--env probe_match --seeds 1 --num-envs 8 --chunk 2 --steps 320 --eval-episodes 16 --ppo.minibatches 2"
TINY += " --vae.minibatches 2 --network.hidden 8 --no-tensorboard"


def run(*command: str | Path, cwd: Path) -> str:
    """Output of a command that must succeed, with no path of this checkout in its environment."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    process = subprocess.run([*map(str, command)], cwd=cwd, env=environment, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    return process.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The wheel of this checkout, built as `pip install .` builds it, from a copy without what earlier builds left."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    for name in ("dynamite_jax", "envs", "experiments"):
        shutil.copytree(CHECKOUT / name, source / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(CHECKOUT / name, source)
    options = ("--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", folder)
    run(sys.executable, "-m", "pip", "wheel", *options, source, cwd=folder)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    """Programs of an environment with nothing in it but the wheel, and its dependencies as they are here."""
    folder = tmp_path_factory.mktemp("environment")
    run(sys.executable, "-m", "venv", "--without-pip", folder, cwd=folder)
    programs = folder / ("Scripts" if os.name == "nt" else "bin")
    options = ("--quiet", "--no-deps", "--no-index")
    run(sys.executable, "-m", "pip", "--python", programs / "python", "install", *options, wheel, cwd=folder)
    paths = sysconfig.get_paths(vars={"base": str(folder), "platbase": str(folder)})
    # A folder named in a .pth file is searched for packages, but the editable installation in it stays unknown.
    (Path(paths["purelib"]) / "dependencies.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    return programs


@pytest.fixture
def foreign(tmp_path) -> Path:
    """A folder whose own packages are called `envs` and `experiments`."""
    for name in ("envs", "experiments"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("OWNER = 'somebody else'\n")
    return tmp_path


def test_the_wheel_holds_two_packages_with_their_data(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0].split("-")[0] for name in names} == {"dynamite_jax", "dynamite_envs"}
    for name in ("dynamite_jax/py.typed", "dynamite_envs/py.typed", "dynamite_envs/assets/half_cheetah.xml"):
        assert name in names
    assert {f"dynamite_jax/tuned/{path.name}" for path in presets.SHIPPED.glob("*.json")} <= set(names)


def test_names_of_others_stay_theirs(installed, foreign):
    code = "import dynamite_jax, dynamite_envs, envs, experiments, json; print(json.dumps([envs.OWNER,"
    code += " experiments.OWNER, dynamite_jax.__file__, dynamite_envs.__file__]))"
    *owners, package, environments = json.loads(run(installed / "python", "-c", code, cwd=foreign))
    assert owners == ["somebody else"] * 2
    assert Path(package).is_relative_to(installed.parent) and Path(environments).is_relative_to(installed.parent)


def test_the_wheel_trains(installed, foreign):
    run(installed / "dynamite-jax", "train", *TINY.split(), "--out", "runs/mine", cwd=foreign)
    summary = json.loads((foreign / "runs" / "mine" / "summary.json").read_text())
    assert summary["env"] == "probe_match" and summary["versions"]["dynamite-jax"]


@pytest.mark.parametrize("command", ["-m dynamite_jax train", "-m dynamite_jax.train"])
def test_the_wheel_starts_by_its_modules_too(command, installed, foreign):
    assert "--num-envs" in run(installed / "python", *command.split(), "--help", cwd=foreign)
