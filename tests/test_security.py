"""Files of strangers are data: nothing in a config, a checkpoint or a policy runs, or leads out of its folder."""

import ast
import json
import shutil
import subprocess
import sys

import pytest

from conftest import build, tiny_config
from dynamite_envs.errors import UserError
from dynamite_jax import config as configs
from dynamite_jax.runtime.checkpoints import CheckpointError, Checkpoints
from refusals import CHECKOUT
from restoring import restore

PICKLES = {"pickle", "_pickle", "cPickle", "marshal", "shelve", "dill", "cloudpickle", "joblib"}
RUNNERS = {"eval", "exec", "compile", "__import__"}
SOURCES = [p for folder in ("dynamite_jax", "envs", "experiments") for p in sorted((CHECKOUT / folder).rglob("*.py"))]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(CHECKOUT)))
def test_no_module_reads_pickles_or_runs_text(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names] + [getattr(node, "module", None) or ""]
            assert not PICKLES & {name.partition(".")[0] for name in names}
        if isinstance(node, ast.Call):
            called = getattr(node.func, "id", None)
            assert called not in RUNNERS, f"line {node.lineno}: {called}"
            assert not any(word.arg == "allow_pickle" for word in node.keywords)
            method = getattr(node.func, "attr", None)
            owner = getattr(getattr(node.func, "value", None), "id", None)
            assert (owner, method) != ("torch", "load")


@pytest.fixture
def saved(tmp_path):
    """Two checkpoints of a small run, and a state of it."""
    _, states = build(tiny_config("probe_match"))
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    for step in (1, 2):
        checkpoints.save(step, states)
    checkpoints.wait()
    checkpoints.close()
    return tmp_path / "checkpoints", states


def folder_outside(step, outside):
    shutil.move(step / "state", outside)
    (step / "state").symlink_to(outside)


def file_outside(step, outside):
    file = max((path for path in (step / "state").rglob("*") if path.is_file()), key=lambda p: p.stat().st_size)
    shutil.move(file, outside)
    file.symlink_to(outside)


def file_above(step, outside):
    shutil.move(step / "digests" / "metadata", outside)
    (step / "digests" / "metadata").symlink_to("../../../outside")


@pytest.mark.parametrize("lead", [folder_outside, file_outside, file_above])
def test_a_checkpoint_leads_nowhere_else(saved, tmp_path, lead):
    """What the links lead to is valid: only that they do is wrong."""
    folder, states = saved
    lead(folder / "2", tmp_path / "outside")
    step, _, [line] = restore(folder, states)
    assert step == 1 and "in it is a symbolic link" in line
    shutil.rmtree(folder / "1")
    with pytest.raises(CheckpointError, match="symbolic link; no older valid one is left"):
        restore(folder, states)


def test_a_linked_run_is_the_users_own_business(saved, tmp_path):
    folder, states = saved
    (tmp_path / "link").symlink_to(folder)
    assert restore(tmp_path / "link", states)[0] == 2


@pytest.mark.parametrize(
    "changes",
    [
        {"env": "os.system"},
        {"method": "../../method"},
        {"plugin": ["evil"]},
        {"env_options": {"__class__": "x"}},
        {"env_options": "__import__('os').system('touch ran')"},
        {"num_envs": "__import__('os').system('touch ran')"},
        {"network": {"activation": "os.system"}},
    ],
)
def test_nothing_in_a_config_runs(changes, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    record = configs.to_dict(tiny_config("probe_match"))
    if "network" in changes:
        changes = {"network": record["network"] | changes["network"]}
    (tmp_path / "config.json").write_text(json.dumps(record | changes))
    with pytest.raises(UserError):
        configs.validate(configs.load(tmp_path / "config.json"))
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


def test_a_module_is_a_plugin_only_where_the_command_line_says_so(tmp_path):
    """One beside the run, of the name of what the config asks for, or named in the environment, is not imported."""
    (tmp_path / "evil.py").write_text("open('ran', 'w')\n")
    record = configs.to_dict(tiny_config("probe_match")) | {"env": "evil"}
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text(json.dumps(record))
    line = [sys.executable, "-m", "dynamite_jax.train", "--out", "run", "--resume"]
    process = subprocess.run(line, capture_output=True, text=True, cwd=tmp_path)
    assert process.returncode == 2 and process.stderr.startswith("error: ") and not (tmp_path / "ran").exists()
    process = subprocess.run([*line, "--plugin", "evil"], capture_output=True, text=True, cwd=tmp_path)
    assert process.returncode == 2 and (tmp_path / "ran").exists()
