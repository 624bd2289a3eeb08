"""Conversion of weights between Flax's nested dicts and PyTorch's flat dicts of NumPy arrays."""

from pathlib import Path
from typing import Any

import numpy as np

Nested = dict[str, Any]
Flat = dict[str, np.ndarray]


def from_flax(nested: Nested) -> Flat:
    """A module's parameters in Flax as the `state_dict` of its counterpart here."""
    return {_torch_name(path): np.asarray(_turned(path, leaf)) for path, leaf in _leaves(nested)}


def to_flax(state: Flat, like: Nested) -> Nested:
    """The way back, in the structure of `like`.

    Raises:
        KeyError: the state lacks one of its arrays.
    """
    nested: Nested = {}
    for path, leaf in _leaves(like):
        node = nested
        for name in path[:-1]:
            node = node.setdefault(name, {})
        node[path[-1]] = _turned(path, state[_torch_name(path)]).astype(np.asarray(leaf).dtype)
    return nested


def save(path: Path, arrays: Flat) -> None:
    """Write arrays as an .npz."""
    np.savez(path, **arrays)  # pyright: ignore[reportArgumentType]  # none is called allow_pickle


def _leaves(nested: Nested, path: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], Any]]:
    if not isinstance(nested, dict):
        return [(path, nested)]
    return [leaf for name, child in nested.items() for leaf in _leaves(child, (*path, name))]


def _turned(path: tuple[str, ...], leaf: Any) -> Any:
    """Flax multiplies from the left, PyTorch from the right."""
    return np.asarray(leaf).T if path[-1] == "kernel" else np.asarray(leaf)


def _torch_name(path: tuple[str, ...]) -> str:
    """`("reward_decoder", "Dense_0", "kernel")` -> `reward_decoder.layers.0.weight`; a head's only layer is itself."""
    names = []
    for above, name in zip(("", *path), path, strict=False):
        if name.startswith("Dense_"):
            names += [] if above.endswith("head") else ["layers", name.removeprefix("Dense_")]
        else:
            names.append("weight" if name == "kernel" else name)
    return ".".join(names)
