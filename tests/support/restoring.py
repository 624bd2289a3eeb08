"""The newest valid state of a folder of checkpoints."""

from pathlib import Path
from typing import Any

from dynamite_jax.runtime.checkpoints import Checkpoints


def restore(folder: Path, like: Any) -> tuple[int, Any, list[str]]:
    """As `Checkpoints.restore` of a folder that is opened for it alone."""
    checkpoints = Checkpoints(folder)
    try:
        return checkpoints.restore(like)
    finally:
        checkpoints.close()
