"""Returns of reference agents, solved once for the numbers of an environment and then kept in the cache folder."""

import contextlib
import dataclasses
import hashlib
import inspect
import json
import os
from pathlib import Path
from typing import Any

import numpy as np

import dynamite_jax
from dynamite_envs.exact import ExactSolution
from dynamite_jax.runtime import devices

PLAIN = (bool, int, float, str, type(None))  # types whose `repr` says all there is to say


def references(solution: ExactSolution) -> dict[str, float]:
    """`solution.references()`, from the cache where they are there.

    A cache that can't be read, or whose contents are damaged, is none.
    """
    if type(solution).references is ExactSolution.references or (key := _key(solution)) is None:
        return solution.references()
    try:
        path = devices.cache_folder() / "references" / f"{key}.json"
    except RuntimeError:  # nobody's home is known
        return solution.references()
    found = _read(path)
    if found is None:
        found = solution.references()
        _write(path, found)
    return found


def _key(solution: ExactSolution) -> str | None:
    """Digest of all that the references depend on; None where it can't be told.

    That is the version of this package, the files that define the environment and its solution, and every field of the
    environment.
    """
    digest = hashlib.sha256(dynamite_jax.__version__.encode())
    env = solution.env
    try:
        for kind in (*type(solution).__mro__[:-1], *type(env).__mro__[:-1]):  # without `object`, which has no file
            digest.update(kind.__qualname__.encode() + Path(inspect.getfile(kind)).read_bytes())
    except (TypeError, OSError):  # defined in a session, not in a file
        return None
    for field in dataclasses.fields(env):
        value: Any = getattr(env, field.name)
        if field.metadata.get("pytree_node", True):
            array = np.asarray(value)
            said = f"{array.dtype.str}{array.shape}".encode() + array.tobytes()
        elif isinstance(value, PLAIN):
            said = repr(value).encode()
        else:
            return None
        digest.update(field.name.encode() + said)
    return digest.hexdigest()


def _read(path: Path) -> dict[str, float] | None:
    """References of a file that is as it was written."""
    try:
        record = json.loads(path.read_text())
        found = record["references"]
        intact = record["sha256"] == _checksum(found)
    except (OSError, ValueError, TypeError, KeyError):
        return None
    return found if intact else None


def _write(path: Path, found: dict[str, float]) -> None:
    """Write a file, complete or not at all."""
    part = path.with_suffix(f".{os.getpid()}.part")
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(json.dumps({"references": found, "sha256": _checksum(found)}))
        part.replace(path)


def _checksum(found: dict[str, float]) -> str:
    return hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()
