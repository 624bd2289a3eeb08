"""Recorded episodes as files: a folder of shards, and a card that says what they are.

A shard is two files of safetensors, leading axis the episodes: `episodes-NNNNN` holds what an agent meets, and
`hidden-NNNNN` sessions, contexts and physical states, which no agent does. `card.json` is written last: it marks a
complete set.
"""

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import numpy as np
import safetensors
from safetensors.numpy import load_file
from safetensors.numpy import save as packed

from dynamite_envs.dlcmdp import DLCMDP
from dynamite_envs.errors import UserError
from dynamite_jax.config import Config
from dynamite_jax.datasets.recording import Episodes
from dynamite_jax.errors import writing

SCHEMA = 1
CARD = "card.json"
VISIBLE, HIDDEN = "episodes", "hidden"
SEEN = ("observation", "action", "reward", "terminated")
"""Fields of `Episodes` that an agent meets."""

Arrays = dict[str, np.ndarray]


def files(folder: Path, number: int) -> tuple[Path, Path]:
    """The two files of a shard."""
    visible, hidden = (folder / f"{kind}-{number:05d}.safetensors" for kind in (VISIBLE, HIDDEN))
    return visible, hidden


def write_shard(folder: Path, number: int, episodes: Episodes) -> None:
    """Write a shard, each of its files complete or not at all, the visible one last.

    Raises:
        UserError: it can't be written.
    """
    arrays = to_arrays(episodes)
    visible, hidden = files(folder, number)
    parts = {
        hidden: {name: array for name, array in arrays.items() if name not in SEEN},
        visible: {name: arrays[name] for name in SEEN},
    }
    for path, part in parts.items():
        with writing(path):
            whole = path.with_name(f"{path.name}.part")
            whole.write_bytes(packed(part))
            whole.replace(path)


def read_shard(folder: Path, number: int, env: DLCMDP) -> Episodes:
    """A shard, time-major, on the host.

    Raises:
        UserError: a file is missing or damaged, or its arrays are not those of episodes of the environment.
    """
    arrays: Arrays = {}
    for path in files(folder, number):
        if path.is_symlink():  # a set may be a stranger's: nothing in it may lead out of it
            raise UserError(f"data: {path} is a symbolic link; it must be a file")
        try:
            arrays |= load_file(path)
        except OSError as error:
            raise UserError(f"data: {path} can't be read: {error.strerror or error}") from None
        except (safetensors.SafetensorError, TypeError, AttributeError, KeyError) as error:
            raise UserError(f"data: {path} is damaged: {error}") from None  # the last three of types that NumPy lacks
    return from_arrays(arrays, env, str(files(folder, number)[0]))


def to_arrays(episodes: Episodes) -> Arrays:
    """Arrays by name, the leading axis the episodes."""
    leaves = jax.tree_util.tree_leaves_with_path(episodes)
    named = {jax.tree_util.keystr(path, simple=True, separator="."): np.asarray(leaf) for path, leaf in leaves}
    return {name: np.ascontiguousarray(array.swapaxes(0, 1)) for name, array in named.items()}


def from_arrays(arrays: Arrays, env: DLCMDP, source: str) -> Episodes:
    """The way back from `to_arrays`.

    Args:
        arrays: by name.
        env: whose episodes they are.
        source: where they are from, for messages.

    Raises:
        UserError: names the first array that is missing, or of another shape or type.
    """
    count = len(arrays["reward"]) if "reward" in arrays and arrays["reward"].ndim else 0
    expected = template(env, count)
    if not any(name.startswith("physics") for name in arrays):
        expected = expected.replace(physics=None)
    leaves, structure = jax.tree_util.tree_flatten_with_path(expected)
    names = [jax.tree_util.keystr(path, simple=True, separator=".") for path, _ in leaves]
    shapes = {
        name: (leaf.dtype, (leaf.shape[1], leaf.shape[0], *leaf.shape[2:]))
        for name, (_, leaf) in zip(names, leaves, strict=True)
    }
    for name in sorted(shapes.keys() | arrays.keys()):
        found = (arrays[name].dtype, arrays[name].shape) if name in arrays else None
        if found != shapes.get(name):
            here, there = (f"{kind[0]}{list(kind[1])}" if kind else "missing" for kind in (found, shapes.get(name)))
            raise UserError(f"data: {name} of {source} is {here}; of this environment it must be {there}")
    return jax.tree.unflatten(structure, [np.ascontiguousarray(arrays[name].swapaxes(0, 1)) for name in names])


def template(env: DLCMDP, count: int) -> Episodes:
    """Shapes and types of so many episodes, time-major."""

    def shaped(tree: Any, steps: int) -> Any:
        return jax.tree.map(lambda x: np.broadcast_to(np.zeros((), x.dtype), (steps, count, *x.shape)), tree)

    state = jax.eval_shape(env.reset, jax.random.key(0))
    action = jax.eval_shape(lambda: env.action_space.zeros(()))
    horizon = env.horizon
    return Episodes(
        observation=shaped(state.obs, horizon + 1),
        action=shaped(action, horizon),
        reward=shaped(state.reward, horizon),
        terminated=shaped(state.terminated, horizon),
        session=shaped(state.session, horizon + 1),
        context=shaped(state.context, horizon + 1),
        physics=shaped(state.physics, horizon + 1),
    )


def digest_of_file(path: Path) -> str:
    """Its SHA-256.

    Raises:
        UserError: it can't be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"data: {path} can't be read: {error.strerror}") from None


@dataclass(frozen=True)
class Dataset:
    """A complete set of recorded episodes.

    Attributes:
        folder: where it lies.
        env: the environment that it is of.
        card: contents of `card.json`.
    """

    folder: Path
    env: DLCMDP
    card: dict[str, Any]

    @classmethod
    def open(cls, folder: Path, env: DLCMDP) -> "Dataset":
        """The set in a folder.

        Raises:
            UserError: there is none, it is incomplete, or its card is damaged.
        """
        return cls(folder, env, read_card(folder))

    @property
    def shards(self) -> list[dict[str, Any]]:
        """What the card says of each shard: `episodes`, `source`, and `sha256` of both files."""
        return self.card["shards"]

    @property
    def episodes(self) -> int:
        """How many there are."""
        return sum(shard["episodes"] for shard in self.shards)

    @cached_property
    def digest(self) -> str:
        """Of all episodes, by the digests of the card."""
        return hashlib.sha256(json.dumps(self.shards, sort_keys=True).encode()).hexdigest()[:16]

    def settled(self, config: Config) -> Config:
        """The config with the digest of these episodes."""
        return dataclasses.replace(config, offline=config.offline.replace(digest=self.digest))

    def read(self, number: int) -> Episodes:
        """One shard, time-major, on the host.

        Raises:
            UserError: a file is not what the card says.
        """
        for path, digest in zip(files(self.folder, number), self.shards[number]["sha256"], strict=True):
            if digest_of_file(path) != digest:
                raise UserError(f"data: {path} is damaged: it does not match its SHA-256 in {CARD}")
        episodes, told = read_shard(self.folder, number, self.env), self.shards[number]["episodes"]
        if episodes.reward.shape[1] != told:
            raise UserError(
                f"data: shard {number} of {self.folder} has {episodes.reward.shape[1]} episodes, not {told}"
            )
        return episodes

    def verify(self) -> None:
        """Look at every file once, before anything depends on them.

        Raises:
            UserError: a file is not what the card says.
        """
        for number in range(len(self.shards)):
            self.read(number)


def joined(parts: Sequence[Episodes]) -> Episodes:
    """Episodes of several sets as one, on the host."""
    return jax.tree.map(lambda *arrays: np.concatenate(arrays, axis=1), *parts)


def read_card(folder: Path) -> dict[str, Any]:
    """What a set of episodes says of itself.

    Raises:
        UserError: there is no card, or it is damaged or of a later version.
    """
    path = folder / CARD
    if not path.is_file():
        hint = "its collection was cut off, and the same command goes on" if (folder / "plan.json").is_file() else ""
        raise UserError(f"data is {str(folder)!r}; it must be a folder with a {CARD}{hint and '; ' + hint}")
    try:
        card = json.loads(path.read_text())
        schema = card["schema"]
        known = bool(card["shards"]) and isinstance(card["env"], str) and isinstance(card["env_options"], dict)
        for shard in card["shards"]:
            visible, hidden = shard["sha256"]
            known = known and type(shard["episodes"]) is int and isinstance(visible + hidden, str)
        known = known and isinstance(card["physics"], bool)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"data: {path} is damaged ({type(error).__name__}: {error})") from None
    if not known:
        raise UserError(f"data: {path} is damaged: it does not say what its shards are")
    if schema != SCHEMA:
        raise UserError(f"data: schema of {path} is {schema!r}; this version of dynamite_jax reads {SCHEMA}")
    return card
