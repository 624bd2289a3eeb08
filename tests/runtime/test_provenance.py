"""A run names the commit of this package's checkout or none, and never fails for want of its own metadata."""

import subprocess
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


def test_versions_that_are_not_known_are_none(monkeypatch):
    def missing(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    assert provenance.versions()["jax"] == metadata.version("jax")
    monkeypatch.setattr(metadata, "version", missing)
    versions = provenance.versions()
    assert versions.pop("dynamite-jax") == dynamite_jax.__version__
    assert versions.pop("python") and set(versions.values()) == {None}
