"""References are solved once for the numbers of an environment, and anew where the cache can't be trusted."""

import importlib.util
import json
from pathlib import Path

import pytest

import dynamite_jax
from dynamite_envs import exact, registry
from dynamite_envs.gridworld.exact import GridworldSolution
from dynamite_envs.probes_exact import MemorySolution
from dynamite_jax.analysis.references import references, regret_of_discount


@pytest.fixture
def solved(monkeypatch, tmp_path) -> list[float]:
    """The cache folder is empty; each time that references are solved adds the p of the environment."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    times, solve = [], MemorySolution.references

    def counted(self):
        times.append(float(self.env.p))
        return solve(self)

    monkeypatch.setattr(MemorySolution, "references", counted)
    return times


def of(**options) -> dict[str, float]:
    return references(exact.find(registry.make("probe_memory", **options)))


def file(tmp_path: Path) -> Path:
    (path,) = tmp_path.rglob("*.json")
    return path


def test_the_same_numbers_are_solved_once(solved):
    first = of()
    assert first == of() == exact.find(registry.make("probe_memory")).references() != {}
    assert len(solved) == 2  # by the first, and by the line above


def test_other_numbers_sizes_and_versions_are_solved_anew(solved, monkeypatch):
    of()
    assert of(p=0.25) != of(p=0.5)
    of(horizon=3)
    monkeypatch.setattr(dynamite_jax, "__version__", "other")
    of()
    assert len(solved) == 5


@pytest.mark.parametrize("damage", ["cut", "digit", "empty", "list", "folder"])
def test_a_damaged_file_is_solved_anew_and_mended_where_it_can_be(damage, solved, tmp_path):
    right = of()
    path = file(tmp_path)
    text = path.read_text()
    record = json.loads(text)
    name = next(iter(right))
    record["references"][name] += 1.0
    path.unlink()
    if damage == "folder":
        path.mkdir()
    else:
        path.write_text({"cut": text[:20], "digit": json.dumps(record), "empty": "", "list": "[1]"}[damage])
    assert of() == right and len(solved) == 2
    assert of() == right and len(solved) == (3 if damage == "folder" else 2)


def test_a_folder_that_can_not_be_written_is_no_error(solved, tmp_path, capfd):
    (tmp_path / "dynamite_jax").write_text("")
    assert of() == of() != {}
    assert len(solved) == 2 and capfd.readouterr() == ("", "")


def test_a_machine_without_a_home_solves(solved, monkeypatch):
    def homeless():
        raise RuntimeError("no home")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", homeless)
    assert of() != {} and len(solved) == 1


def test_a_solution_that_was_edited_is_solved_anew(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = tmp_path / "mine.py"
    for best in (1.0, 2.0):
        path.write_text(
            "from dynamite_envs.exact import ExactSolution\n"
            f"class Mine(ExactSolution):\n    def references(self): return {{'best': {best}}}\n"
        )
        spec = importlib.util.spec_from_file_location("mine", path)
        assert spec and spec.loader
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(__import__("sys").modules, "mine", module)
        exec(compile(path.read_text(), path, "exec"), module.__dict__)
        assert references(module.Mine(registry.make("probe_memory"))) == {"best": best}


def test_the_regret_of_a_discount_is_solved_once_for_each(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    solved = []
    monkeypatch.setattr(GridworldSolution, "regret_of_discount", lambda self, discount: solved.append(discount) or 3.0)
    monkeypatch.setattr(GridworldSolution, "references", lambda self: {"oracle": 1.0})
    solution = GridworldSolution(registry.make("gridworld"))
    assert [regret_of_discount(solution, discount) for discount in (0.5, 0.25, 0.5)] == [3.0] * 3
    assert solved == [0.5, 0.25]
    assert references(solution) == {"oracle": 1.0}


def test_what_has_no_references_leaves_no_file(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert references(exact.find(registry.make("point_robot"))) == {}
    assert not list(tmp_path.iterdir())
