"""Which program produced a run: its commit, and the versions of its dependencies. What is unknown is None."""

import platform
import subprocess
from importlib import metadata
from pathlib import Path

import dynamite_jax

PACKAGE = Path(dynamite_jax.__file__).parent
DEPENDENCIES = ("jax", "jaxlib", "flax", "optax", "brax", "orbax-checkpoint", "distrax", "numpy")


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
