"""A run names the commit of this package's checkout or none, its code, and never fails for want of its own metadata."""

import importlib
import json
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest

import dynamite_jax
from dynamite_jax.runtime import provenance


def git(folder: Path, *words: str) -> None:
    command = ["git", "-C", str(folder), "-c", "user.name=a", "-c", "user.email=a@b", *words]
    subprocess.run(command, check=True, capture_output=True)


@pytest.fixture
def checkout(tmp_path) -> Path:
    """A committed checkout of a package."""
    for path in ("package/__init__.py", "results/report.json"):
        (tmp_path / path).parent.mkdir()
        (tmp_path / path).write_text("before")
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "--quiet", "-m", "first")
    return tmp_path


def test_results_leave_the_commit_as_it_is_and_changed_code_does_not(checkout):
    package = checkout / "package"
    clean = provenance.commit(package)
    assert clean and len(clean) == 40
    (checkout / "results" / "report.json").write_text("after")
    (checkout / "untracked").write_text("a run, say")
    assert provenance.commit(package) == clean
    (package / "__init__.py").write_text("after")
    assert provenance.commit(package) == f"{clean}-dirty"


def test_a_package_outside_git_has_no_commit(tmp_path):
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "__init__.py").touch()
    assert provenance.commit(tmp_path / "package") is None
    assert provenance.commit(tmp_path / "nowhere") is None


@pytest.mark.parametrize("place", ["installed", ".venv/lib/python3.11/site-packages/installed"])
def test_a_package_installed_inside_another_project_has_no_commit(checkout, place):
    package = checkout / place
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    assert provenance.commit(package) is None


def test_a_package_that_another_project_keeps_in_its_own_history_has_no_commit_of_its_own(checkout):
    package = checkout / "vendor" / "installed"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    git(checkout, "add", ".")
    git(checkout, "commit", "--quiet", "-m", "second")
    assert provenance.commit(package) is None


def test_without_git_there_is_no_commit(checkout, monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert provenance.commit(checkout / "package") is None


MODULE = '''"""Says something."""
from pathlib import Path

ASSET = "model.xml"


def double(x):
    """Twice."""
    return 2 * x  # a comment
'''


@pytest.fixture
def module(tmp_path, monkeypatch) -> Iterator[Path]:
    """The file of a module `counted.numbers`, which names an asset."""
    folder = tmp_path / "counted"
    folder.mkdir()
    (folder / "__init__.py").touch()
    (folder / "model.xml").write_text("<a/>")
    (folder / "other.xml").write_text("<a/>")
    (folder / "numbers.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(provenance, "ASSETS", folder)
    for name in ("counted", "counted.numbers"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    yield folder / "numbers.py"
    for name in ("counted", "counted.numbers"):
        sys.modules.pop(name, None)


def digest_now(*names: str) -> str | None:
    provenance._digest_of_file.cache_clear()
    importlib.invalidate_caches()
    return provenance.digest(names or ("counted.numbers",))


def test_code_is_the_same_whatever_is_said_about_it_and_another_with_any_number_in_it(module):
    before = digest_now()
    module.write_text(MODULE.replace("Twice", "Two times").replace("# a comment", "").replace("x):", "x   ):"))
    (module.parent / "other.xml").write_text("<b/>")
    assert digest_now() == before
    for old, new in (("2 * x", "3 * x"), ("model.xml", "other.xml")):
        module.write_text(MODULE.replace(old, new))
        assert digest_now() != before
    module.write_text(MODULE)
    (module.parent / "model.xml").write_text("<b/>")
    assert digest_now() != before


def test_code_has_one_digest_in_all_versions_of_python(module):
    text = """TEXT = f"{{a}} {b['c']!r:>{2}}" f"{3=}" "b"\n\n\ndef f(x: int = -1, *y):\n    return {**x}\n"""
    module.write_text(text)
    assert digest_now() == "805e99e3cba4de45", (
        "what Python 3.11, 3.12 and 3.13 give, though each unparses and dumps it in its own way"
    )


def test_code_that_is_edited_while_a_run_goes_on_is_that_of_its_start(module):
    before = digest_now()
    module.write_text(MODULE.replace("2 * x", "3 * x"))
    assert provenance.digest(["counted.numbers"]) == before != digest_now()


def test_plugins_and_what_lies_beside_them_are_code_of_a_run(module, monkeypatch):
    importlib.import_module("counted.numbers")
    assert "counted.numbers" not in provenance.code()["modules"]
    monkeypatch.setattr(provenance, "PLUGINS", ["counted"])
    assert {"counted", "counted.numbers"} <= set(provenance.code()["modules"])


def test_a_plugin_in_a_folder_that_is_no_package_and_a_compiled_one_have_a_digest(module, monkeypatch):
    (module.parent / "__init__.py").unlink()
    (module.parent / "fast.so").write_bytes(b"\x7fELF\xff")
    importlib.invalidate_caches()
    importlib.import_module("counted.numbers")
    monkeypatch.setattr(provenance, "PLUGINS", ["counted.numbers"])
    code = provenance.code()
    assert code["digest"] and "counted.numbers" in code["modules"]
    compiled = provenance._digest_of_file(module.parent / "fast.so")
    (module.parent / "fast.so").write_bytes(b"\x7fELF\xfe")
    provenance._digest_of_file.cache_clear()
    assert provenance._digest_of_file(module.parent / "fast.so") != compiled


def test_code_that_is_gone_has_no_digest(module):
    module.unlink()
    assert [digest_now(name) for name in ("counted.numbers", "counted.no", "no.such")] == [None] * 3


def test_the_code_of_a_run_is_its_method_and_its_environment(tmp_path):
    """In a process of its own, as the runs of a table are."""
    flags = "--env probe_match --method rl2 --steps 2000 --num-envs 8 --seeds 1 --ppo.minibatches 2 --eval-episodes 8"
    command = [sys.executable, "-m", "dynamite_jax", "train", *flags.split(), "--out", "run"]
    subprocess.run(command, check=True, capture_output=True, cwd=tmp_path)
    code = json.loads((tmp_path / "run" / "summary.json").read_text())["code"]
    used = {"beliefs.history", "networks.gru", "algorithms.ppo", "algorithms.meta_ppo", "agents.agent", "data.rollout"}
    assert {f"dynamite_jax.{name}" for name in used} | {"dynamite_envs.dlcmdp"} <= set(code["modules"])
    others = {"dynamite_jax.beliefs.segments", "dynamite_jax.beliefs.contrastive", "dynamite_envs.half_cheetah"}
    shown = {"dynamite_envs.registry", "dynamite_jax.analysis.figures", "dynamite_jax.runtime.loop"}
    assert not (others | shown) & set(code["modules"])
    assert code["digest"] == provenance.digest(code["modules"])


def test_versions_that_are_not_known_are_none(monkeypatch):
    def missing(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    assert provenance.versions()["jax"] == metadata.version("jax")
    monkeypatch.setattr(metadata, "version", missing)
    versions = provenance.versions()
    assert versions.pop("dynamite-jax") == dynamite_jax.__version__
    assert versions.pop("python") and set(versions.values()) == {None}
