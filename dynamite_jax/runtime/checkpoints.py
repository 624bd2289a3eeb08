"""Checkpoints: orbax writes the files, and a SHA-256 of every array shows whether it is what was written.

Orbax restores flipped bits without an error and takes an empty folder for the latest step. So every array is verified
when it is restored, and an invalid step is skipped in favour of the one before it.
"""

import contextlib
import hashlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from dynamite_envs.errors import UserError
from dynamite_jax.config import SCHEMA
from dynamite_jax.errors import writing

Arrays = dict[str, np.ndarray]


class CheckpointError(UserError):
    """No checkpoint can be restored; the message says why in one line."""


class SchemaError(CheckpointError):
    """A checkpoint is of a schema that this version doesn't read; older ones of the run aren't tried."""


def from_schema_0(arrays: Arrays, template: Arrays) -> Arrays:
    """Arrays of a checkpoint of schema 0, whose running statistics were sums of squares, under today's names.

    What an agent needs to act is translated; the rest of its statistics is dropped. The context that the oracle
    observes was not part of its observation: the statistics of its features, which held both, are used instead.
    """
    renamed = {name: array for name, array in arrays.items() if not name.startswith("normaliser.")}
    for moment, new in (("mean", "mean"), ("std", "variance")):
        for quantity in ("features", "observation", "reward", "returns"):
            value, name = arrays[f"normaliser.{moment}.{quantity}"], f"normaliser.{new}.{quantity}"
            if quantity == "observation" and template[f"{name}.value"].shape != value.shape:
                value = arrays[f"normaliser.{moment}.features"]
            renamed[f"{name}.value"] = value**2 if new == "variance" else value
            renamed[f"{name}.error"] = np.zeros_like(value)
    renamed["normaliser.count.value"] = np.zeros(template["normaliser.count.value"].shape, np.float32)
    renamed["normaliser.count.error"] = np.zeros_like(renamed["normaliser.count.value"])
    return renamed


class Checkpoints:
    """The checkpoints of one run, `<folder>/<step>`, written in the background."""

    def __init__(self, folder: Path, keep: int = 2):
        """Open a folder; it is created if it does not exist.

        Args:
            folder: holds a folder for each step.
            keep: how many of the newest steps to keep.
        """
        self._folder = Path(folder).absolute()
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, create=True)
        with self._writing():
            self._manager = ocp.CheckpointManager(self._folder, options=options)

    def save(self, step: int, state: Any) -> None:
        """Copy `state` and write it under `step`, complete or not at all.

        Raises:
            UserError: this one or the one before can't be written.
        """
        arrays = _arrays(state)
        digests = {name: _digest(array) for name, array in arrays.items()}
        items = ocp.args.Composite(
            state=ocp.args.StandardSave(arrays),
            digests=ocp.args.JsonSave(digests),
            about=ocp.args.JsonSave({"schema": SCHEMA}),
        )
        with self._writing():
            self._manager.save(step, args=items)

    def wait(self) -> None:
        """Wait until everything is written.

        Raises:
            UserError: it can't be.
        """
        with self._writing():
            self._manager.wait_until_finished()

    def close(self) -> None:
        """Wait, then close the folder.

        Raises:
            UserError: something can't be written.
        """
        with self._writing():
            self._manager.close()

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """As `errors.writing`, also for the errors of tensorstore: a ValueError with the number of the cause."""
        try:
            with writing(self._folder):
                yield
        except ValueError as error:
            number = re.search(r"os_error_code='(\d+)'", str(error))
            if isinstance(error, UserError) or not number:
                raise
            with writing(self._folder):
                raise OSError(int(number[1]), os.strerror(int(number[1]))) from None

    def any(self) -> bool:
        """Whether a step was ever completed, valid or not."""
        return bool(self._steps())

    def restore(self, like: Any, part: bool = False) -> tuple[int, Any, list[str]]:
        """The newest valid state.

        Args:
            like: a state of the same structure, shapes and types; its sharding is kept too.
            part: whether `like` is a part of the state; all of a state of an earlier schema can't be restored.

        Returns:
            Its step, the state, and a line for each newer step that had to be skipped.

        Raises:
            CheckpointError: there is none, or another version wrote it.
        """
        damaged: list[str] = []
        for step in sorted(self._steps(), reverse=True):
            try:
                return step, self._read(step, like, part), damaged
            except SchemaError as error:
                raise SchemaError(f"checkpoint {self._folder / str(step)}: {error}") from None
            except CheckpointError as error:
                damaged.append(f"checkpoint {self._folder / str(step)} is damaged: {error}")
        if damaged:
            raise CheckpointError(f"{damaged[0]}; no older valid one is left")
        raise CheckpointError(f"no checkpoint under {self._folder}")

    def _steps(self) -> list[int]:
        return [int(path.name) for path in self._folder.iterdir() if path.is_dir() and path.name.isdigit()]

    def _read(self, step: int, like: Any, part: bool) -> Any:
        template = _arrays(like)
        items = {"state": ocp.args.StandardRestore(), "digests": ocp.args.JsonRestore()}
        if (self._folder / str(step) / "about").is_dir():  # from schema 1 on
            items["about"] = ocp.args.JsonRestore()
        try:
            restored = self._manager.restore(step, args=ocp.args.Composite(**items))
            schema = restored["about"]["schema"] if "about" in items else 0
            arrays = {name: np.asarray(array) for name, array in restored["state"].items()}
            digests = restored["digests"]
        except Exception as error:  # orbax and tensorstore raise many kinds for files cut short or missing
            raise CheckpointError(f"it can't be read ({type(error).__name__})") from None
        if schema not in range(SCHEMA + 1):
            raise SchemaError(f"its schema is {schema!r}; this version of dynamite_jax reads 0 to {SCHEMA}")
        if unmatched := sorted(arrays.keys() ^ digests.keys()):
            raise CheckpointError(f"its arrays are not those of its digests, see {unmatched[0]}")
        for name, array in arrays.items():
            if _digest(array) != digests[name]:
                raise CheckpointError(f"{name} does not match its SHA-256")
        if schema < SCHEMA and not part:
            raise SchemaError("an earlier version wrote it; its run can be evaluated and plotted, but not go on")
        if schema == 0:
            arrays = from_schema_0(arrays, template)
        if part:
            arrays = {name: array for name, array in arrays.items() if name in template}
        if unmatched := sorted(arrays.keys() ^ template.keys()):
            raise CheckpointError(f"its arrays are not those of this run, see {unmatched[0]}")
        for name, array in arrays.items():
            expected = template[name]
            if (array.shape, array.dtype) != (expected.shape, expected.dtype):
                actual = f"{array.dtype}{list(array.shape)}"
                raise CheckpointError(f"{name} is {actual} instead of {expected.dtype}{list(expected.shape)}")
        return _rebuild(like, arrays)


def _arrays(state: Any) -> Arrays:
    """Leaves by their path, copied to the host; random keys as their data. Empty arrays are left out."""
    leaves = [(path, leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(state) if leaf.size]
    data = {jax.tree_util.keystr(path, simple=True, separator="."): _key_data(leaf) for path, leaf in leaves}
    return {name: np.array(array) for name, array in jax.device_get(data).items()}


def _rebuild(like: Any, arrays: Arrays) -> Any:
    """The way back from `_arrays`, with the structure, the key types and the sharding of `like`."""

    def restored(path: Any, leaf: Any) -> Any:
        if not leaf.size:
            return leaf
        array = arrays[jax.tree_util.keystr(path, simple=True, separator=".")]
        if _is_key(leaf):
            keys = jax.random.wrap_key_data(jnp.asarray(array), impl=jax.random.key_impl(leaf))
            return jax.device_put(keys, leaf.sharding)
        return jax.device_put(array, leaf.sharding)

    return jax.tree_util.tree_map_with_path(restored, like)


def _is_key(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _key_data(leaf: Any) -> Any:
    return jax.random.key_data(leaf) if _is_key(leaf) else leaf


def _digest(array: np.ndarray) -> str:
    """SHA-256 over type, shape and bytes."""
    header = f"{array.dtype.str}{array.shape}".encode()
    return hashlib.sha256(header + np.ascontiguousarray(array).tobytes()).hexdigest()
