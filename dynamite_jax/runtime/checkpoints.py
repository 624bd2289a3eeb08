"""Checkpoints: orbax writes the files, and a SHA-256 of every array shows whether it is what was written.

Orbax restores flipped bits without an error and takes an empty folder for the latest step. So every array is verified
when it is restored, and an invalid step is skipped in favour of the one before it.

Several processes write one checkpoint together, each the rows on its own devices; a digest is then that of the digests
of the seeds. Any number of processes reads what any other has written.
"""

import contextlib
import hashlib
import json
import os
import re
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

from dynamite_envs.errors import UserError
from dynamite_jax.config import ARRAYS, SCHEMA
from dynamite_jax.errors import writing
from dynamite_jax.runtime import processes

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
    """The checkpoints of one run, `<folder>/<step>`, written in the background.

    Attributes:
        seconds: that a run has spent in `save` and `wait` so far.
    """

    def __init__(self, folder: Path, keep: int = 2, seeds: int | None = None):
        """Open a folder; it is created if it does not exist.

        Args:
            folder: holds a folder for each step.
            keep: how many of the newest steps to keep; 0 keeps all.
            seeds: of the run, where states lie on the devices of several processes and may have more rows than that.
        """
        self._folder, self._seeds, self.seconds = Path(folder).absolute(), seeds, 0.0
        options = ocp.CheckpointManagerOptions(max_to_keep=keep or None, create=True)
        with self._writing():
            self._manager = ocp.CheckpointManager(self._folder, options=options)

    def save(self, step: int, state: Any) -> None:
        """Copy `state` and write it under `step`, complete or not at all.

        Raises:
            UserError: this one or the one before can't be written.
        """
        start = time.perf_counter()
        arrays: dict[str, Any] = _named(state)
        about: dict[str, Any] = {"schema": SCHEMA}
        if _apart(state):
            arrays = _copied(arrays)
            digests, about["seeds"] = _digests_of_rows(arrays, self._seeds), self._seeds
            about["arrays"] = {name: [array.dtype.name, array.shape] for name, array in arrays.items()}
        else:
            arrays = {name: np.array(array) for name, array in jax.device_get(arrays).items()}
            digests = {name: _digest(array) for name, array in arrays.items()}
        items = ocp.args.Composite(
            state=ocp.args.StandardSave(arrays),
            digests=ocp.args.JsonSave(digests),
            about=ocp.args.JsonSave(about),
        )
        with self._writing():
            self._manager.save(step, args=items)
        self.seconds += time.perf_counter() - start

    def wait(self) -> None:
        """Wait until everything is written.

        Raises:
            UserError: it can't be.
        """
        start = time.perf_counter()
        with self._writing():
            self._manager.wait_until_finished()
        self.seconds += time.perf_counter() - start

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
        return bool(self.steps())

    def restore(self, like: Any, part: bool = False) -> tuple[int, Any, list[str]]:
        """The newest valid state.

        Args:
            like: a state of the same structure, shapes and types; its sharding is kept too. On the devices of several
                processes it may have more rows than there are seeds.
            part: whether `like` is a part of the state; all of a state of an earlier schema can't be restored.

        Returns:
            Its step, the state, and a line for each newer step that had to be skipped.

        Raises:
            CheckpointError: there is none, or another version wrote it.
        """
        damaged: list[str] = []
        for step in reversed(self.steps()):
            try:
                return step, self._read(step, like, part), damaged
            except SchemaError as error:
                raise SchemaError(f"checkpoint {self._folder / str(step)}: {error}") from None
            except CheckpointError as error:
                damaged.append(f"checkpoint {self._folder / str(step)} is damaged: {error}")
        if damaged:
            raise CheckpointError(f"{damaged[0]}; no older valid one is left")
        raise CheckpointError(f"no checkpoint under {self._folder}")

    def read(self, step: int, like: Any) -> Any:
        """A part of the state of one step.

        Args:
            step: one of `steps`.
            like: a state of the same structure, shapes and types.

        Raises:
            CheckpointError: it is damaged, or another version wrote it.
        """
        try:
            return self._read(step, like, part=True)
        except CheckpointError as error:
            raise CheckpointError(f"checkpoint {self._folder / str(step)}: {error}") from None

    def digest(self, step: int) -> str:
        """One for all arrays of a step, by the digests that it holds.

        Raises:
            CheckpointError: it is damaged.
        """
        return _digest_of_text(self._raw(step, None)[1])

    def steps(self) -> list[int]:
        """Completed steps, valid or not, in order."""
        return sorted(int(path.name) for path in self._folder.iterdir() if path.is_dir() and path.name.isdigit())

    def _read(self, step: int, like: Any, part: bool) -> Any:
        template = _named(like)
        try:
            arrays, digests, about = self._raw(step, template if _apart(like) else None)
            failure = None
        except CheckpointError as error:
            failure = error
        if not processes.all_of(failure is None):
            raise failure or CheckpointError("another process can't read it")
        schema, seeds = about["schema"], about.get("seeds")
        if schema not in range(SCHEMA + 1):
            raise SchemaError(f"its schema is {schema!r}; this version of dynamite_jax reads 0 to {SCHEMA}")
        if unmatched := sorted(arrays.keys() ^ digests.keys()):
            raise CheckpointError(f"its arrays are not those of its digests, see {unmatched[0]}")
        for name, digest in _digests_of(arrays, seeds).items():
            if digest != digests[name]:
                raise CheckpointError(f"{name} does not match its SHA-256")
        if schema < ARRAYS and not part:
            raise SchemaError("an earlier version wrote it; its run can be evaluated and plotted, but not go on")
        if seeds is not None and not _apart(arrays):
            arrays = {name: array[:seeds] for name, array in arrays.items()}
        if schema == 0:
            arrays = from_schema_0(arrays, template)
        if part:
            arrays = {name: array for name, array in arrays.items() if name in template}
        if unmatched := sorted(arrays.keys() ^ template.keys()):
            raise CheckpointError(f"its arrays are not those of this run, see {unmatched[0]}")
        for name, array in arrays.items():
            expected = template[name]
            shape = expected.shape
            if _apart(like) and not _apart(array):  # a single process wrote it
                shape = (self._seeds, *shape[1:])
            if (array.shape, array.dtype) != (shape, expected.dtype):
                actual = f"{array.dtype}{list(array.shape)}"
                raise CheckpointError(f"{name} is {actual} instead of {expected.dtype}{list(shape)}")
        if _apart(like):
            arrays = _onto_rows(arrays, template, self._seeds)
        return _rebuild(like, arrays)

    def _raw(self, step: int, rows: dict[str, Any] | None) -> tuple[dict[str, Any], dict[str, str], dict[str, Any]]:
        """Arrays, digests and the rest of a step, as they are in its files.

        Args:
            step: the step.
            rows: arrays of several processes, [rows, ...], where it is read onto the devices of several.

        Raises:
            CheckpointError: it can't be read.
        """
        folder, notes = self._manager.directory / str(step), ocp.JsonCheckpointHandler()
        # A checkpoint may be a stranger's: nothing in it may lead out of it.
        if links := [path for path in (self._folder / str(step)).rglob("*") if path.is_symlink()]:
            raise CheckpointError(f"{links[0].relative_to(self._folder / str(step))} in it is a symbolic link")
        # By the handlers: the manager makes processes wait for each other, also for one that can't read.
        try:
            digests = dict(notes.restore(folder / "digests"))
            about: dict[str, Any] = {"schema": 0}
            if (folder / "about").is_dir():  # from schema 1 on
                about = dict(notes.restore(folder / "about"))
            item = ocp.args.StandardRestore()
            if "seeds" in about:
                saved = {name: np.empty(shape, dtype) for name, (dtype, shape) in about["arrays"].items()}
                item = ocp.args.StandardRestore(saved)
                if rows is not None and about["seeds"] == self._seeds:
                    if unmatched := sorted(saved.keys() ^ rows.keys()):
                        raise CheckpointError(f"its arrays are not those of this run, see {unmatched[0]}")
                    # What lies behind the seeds is cut off or made up, and replaced by `_onto_rows`.
                    wanted = {n: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding) for n, x in rows.items()}
                    item = ocp.args.StandardRestore(wanted, strict=False)
            arrays = ocp.StandardCheckpointHandler().restore(folder / "state", args=item)
        except CheckpointError:
            raise
        except Exception as error:  # orbax and tensorstore raise many kinds for files cut short or missing
            raise CheckpointError(f"it can't be read ({type(error).__name__})") from None
        if "seeds" not in about:
            arrays = {name: np.asarray(array) for name, array in arrays.items()}
        return arrays, digests, about


def _digest_of_text(digests: dict[str, str]) -> str:
    return hashlib.sha256(json.dumps(digests, sort_keys=True).encode()).hexdigest()[:16]


def _named(state: Any) -> dict[str, Any]:
    """Leaves by their path, random keys as their data. Empty arrays are left out."""
    leaves = [(path, leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(state) if leaf.size]
    return {jax.tree_util.keystr(path, simple=True, separator="."): _key_data(leaf) for path, leaf in leaves}


def _apart(state: Any) -> bool:
    """Whether arrays lie on devices of several processes."""
    return any(isinstance(x, jax.Array) and not x.is_fully_addressable for x in jax.tree.leaves(state))


def _rebuild(like: Any, arrays: dict[str, Any]) -> Any:
    """The way back from `_named`, with the structure, the key types and the sharding of `like`."""

    def restored(path: Any, leaf: Any) -> Any:
        if not leaf.size:
            return leaf
        array = arrays[jax.tree_util.keystr(path, simple=True, separator=".")]
        if _is_key(leaf):
            array = jax.random.wrap_key_data(jnp.asarray(array), impl=jax.random.key_impl(leaf))
        return jax.device_put(array, leaf.sharding) if leaf.is_fully_addressable else array

    return jax.tree_util.tree_map_with_path(restored, like)


def _onto_rows(arrays: dict[str, Any], like: dict[str, Any], seeds: int | None) -> dict[str, Any]:
    """Arrays on the devices of several processes, from what lies there or from those of the seeds, which all have.

    Rows behind the seeds repeat the last one.
    """
    shardings = {name: like[name].sharding for name in arrays}
    rows = {name: len(like[name]) for name in arrays}
    seed_of_row = {name: np.minimum(np.arange(n), (seeds or n) - 1) for name, n in rows.items()}
    if _apart(arrays):
        return jax.jit(partial(jax.tree.map, lambda x, rows: x[rows]), out_shardings=shardings)(arrays, seed_of_row)

    def of_devices(name: str, array: np.ndarray) -> jax.Array:
        def of_device(at: Any) -> np.ndarray:
            return array[seed_of_row[name][at[0]]]

        return jax.make_array_from_callback(like[name].shape, shardings[name], of_device)

    return {name: of_devices(name, array) for name, array in arrays.items()}


@jax.jit
def _copied(arrays: dict[str, Any]) -> dict[str, Any]:
    """Arrays of their own, on the same devices."""
    return jax.tree.map(jnp.copy, arrays)


def _is_key(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _key_data(leaf: Any) -> Any:
    return jax.random.key_data(leaf) if _is_key(leaf) else leaf


def _digest(array: np.ndarray) -> str:
    """SHA-256 over type, shape and bytes."""
    header = f"{array.dtype.str}{array.shape}".encode()
    return hashlib.sha256(header + np.ascontiguousarray(array).tobytes()).hexdigest()


def _digests_of(arrays: dict[str, Any], seeds: int | None) -> dict[str, str]:
    """Digests of arrays as those that wrote them have them: several processes, of so many seeds, or a single one."""
    if seeds is not None:
        return _digests_of_rows(arrays, seeds)
    return {name: _digest(array) for name, array in arrays.items()}


def _digests_of_rows(arrays: dict[str, Any], seeds: int | None) -> dict[str, str]:
    """SHA-256 over the SHA-256 of each seed, which the process that holds the seed computes."""
    names = sorted(arrays)

    def of_rows(at: Any) -> np.ndarray:
        """[rows, arrays, 32] bytes."""
        columns = [[_bytes_of_digest(row) for row in _rows_at(arrays[name], at[0])] for name in names]
        return np.stack([np.stack(column) for column in columns], axis=1)

    first = arrays[names[0]]
    if _apart(first):
        shape = (len(first), len(names), hashlib.sha256().digest_size)
        bytes_of_rows = jax.make_array_from_callback(shape, first.sharding, of_rows)
        everybodys = np.asarray(multihost_utils.process_allgather(bytes_of_rows, tiled=True))
    else:
        everybodys = of_rows((slice(None),))
    return {n: hashlib.sha256(everybodys[:seeds, i].tobytes()).hexdigest() for i, n in enumerate(names)}


def _rows_at(array: Any, at: slice) -> np.ndarray:
    """Rows of an array, of which this process holds those."""
    if not _apart(array):
        return np.asarray(array)[at]
    return next(np.asarray(shard.data) for shard in array.addressable_shards if shard.index[0] == at)


def _bytes_of_digest(array: np.ndarray) -> np.ndarray:
    return np.frombuffer(bytes.fromhex(_digest(array)), np.uint8)
