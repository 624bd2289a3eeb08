"""Which program produced a run: its commit, its code, and the versions of its dependencies. What is unknown is None."""

import ast
import hashlib
import platform
import subprocess
import sys
from collections.abc import Iterable
from functools import cache
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import dynamite_envs
import dynamite_jax
from dynamite_jax.errors import PLUGINS

PACKAGE = Path(dynamite_jax.__file__).parent
ASSETS = Path(dynamite_envs.__file__).parent / "assets"
DEPENDENCIES = ("jax", "jaxlib", "flax", "optax", "brax", "orbax-checkpoint", "distrax", "numpy")

# Modules that decide the numbers of a run, and those among them that only name, start or show things.
_PARTS = ("agents", "algorithms", "analysis", "beliefs", "data", "datasets", "methods", "networks")
DECIDING = ("dynamite_envs.", *(f"dynamite_jax.{name}." for name in _PARTS))
_SHOWING = (
    "belief_figure",
    "columns",
    "curves",
    "figures",
    "html_report",
    "panels",
    "report",
    "reward_maps",
    "video",
    "viewing",
)
BYSTANDERS = {"dynamite_envs.registry", *(f"dynamite_jax.analysis.{name}" for name in _SHOWING)}


def code() -> dict[str, Any]:
    """The code that decides the numbers of this process: `modules`, those it has imported, and their `digest`.

    Plugins count, and what is imported of their packages. A process takes each file as it was when this was first
    called after the import.
    """
    own = tuple(f"{name.partition('.')[0]}." for name in PLUGINS)
    modules = sorted(
        name
        for name, module in list(sys.modules.items())
        if f"{name}.".startswith(own)
        and getattr(module, "__file__", None)  # a folder without `__init__.py` has none
        or name.startswith(DECIDING)
        and name not in BYSTANDERS
        and not hasattr(module, "__path__")  # our packages only list what is in them
    )
    return {"digest": digest(modules), "modules": modules}


def digest(modules: Iterable[str]) -> str | None:
    """Digest of the code of modules, as it is on disk, and of the assets that they name.

    Comments, docstrings and layout are left out.

    Returns:
        None where a module is gone.
    """
    parts = []
    for name in modules:
        try:
            spec = find_spec(name)
        except ModuleNotFoundError:  # not even its package is there
            return None
        if spec is None or spec.origin is None:
            return None
        parts.append(f"{name} {_digest_of_file(Path(spec.origin))}")
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


@cache
def _digest_of_file(path: Path) -> str:
    if path.suffix != ".py":  # compiled
        return hashlib.sha256(path.read_bytes()).hexdigest()
    text = path.read_text()
    tree = ast.parse(text)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    content = _written(tree).encode()
    assets = sorted(ASSETS.glob("*"))
    content += b"".join(asset.read_bytes() for asset in assets if asset.name in text or f'"{asset.stem}"' in text)
    return hashlib.sha256(content).hexdigest()


def _written(node: object) -> str:
    """Syntax as text that every version of Python writes alike; `ast.unparse` and `ast.dump` are not so."""
    if isinstance(node, list):
        return f"[{','.join(map(_written, node))}]"
    if not isinstance(node, ast.AST):
        return repr(node)
    if isinstance(node, ast.JoinedStr):  # Python 3.12 leaves an empty constant behind a nested format
        node.values = [part for part in node.values if not (isinstance(part, ast.Constant) and part.value == "")]
    fields = [f"{name}={_written(value)}" for name, value in ast.iter_fields(node) if value not in (None, [])]
    return f"{type(node).__name__}({','.join(fields)})"


def is_todays(earlier: dict[str, Any] | None) -> bool:
    """Whether the modules of an earlier `code()` are as they were; of unknown code it is not known."""
    return earlier is not None and earlier["digest"] is not None and digest(earlier["modules"]) == earlier["digest"]


def versions() -> dict[str, str | None]:
    """Versions of this package, of the packages that its numbers depend on, and of Python."""
    installed: dict[str, str | None] = {"dynamite-jax": dynamite_jax.__version__}
    for name in DEPENDENCIES:
        try:
            installed[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            installed[name] = None
    return installed | {"python": platform.python_version()}


def commit(package: Path = PACKAGE) -> str | None:
    """Commit of the checkout that a package lies in, marked where a tracked file that is no result differs from it.

    Args:
        package: folder of the package.

    Returns:
        None outside a checkout of its own, as where it is installed into an environment inside another project.
    """

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(package), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        if Path(git("rev-parse", "--show-toplevel")).resolve() != package.resolve().parent:
            return None
        git("ls-files", "--error-unmatch", "__init__.py")
        changed = git("status", "--porcelain", "--untracked-files=no", "--", ":/", ":(top,exclude)results")
        return git("rev-parse", "HEAD") + ("-dirty" if changed else "")
    except (OSError, subprocess.SubprocessError):
        return None
