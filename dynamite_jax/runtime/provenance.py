"""Which program made a run: its commit, and the versions of what it is built on."""

import subprocess
import sys
from importlib import metadata
from pathlib import Path

REPORTED = ("dynamite-jax", "jax", "jaxlib", "flax", "optax", "brax", "orbax-checkpoint", "distrax", "numpy")


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that numbers depend on."""
    return {name: metadata.version(name) for name in REPORTED} | {"python": sys.version.split()[0]}


def commit() -> str | None:
    """Commit of the source, marked where a tracked file differs from it that is no result; None outside a checkout."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(Path(__file__).parent), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no", "--", ":/", ":(top,exclude)results")
        return git("rev-parse", "HEAD") + ("-dirty" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return None
