"""A DLCMDP whose context is given by functions: what environments made of other libraries' share."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from flax import struct

from dynamite_envs.dlcmdp import DLCMDP, Array, Context


@dataclass(frozen=True)
class ContextHooks:
    """The first context of a key, the next one of a key and a context, and the features of a context, [C]."""

    init_context: Callable[[Array], Context]
    next_context: Callable[[Array, Context], Context]
    features: Callable[[Context], Array]


class OfHooks(DLCMDP):
    """The context by functions; a subclass has the physics.

    Attributes:
        hooks: `ContextHooks`, perhaps with more.
    """

    hooks: Any = struct.field(pytree_node=False, kw_only=True)

    def init_context(self, key: Array) -> Context:
        """By the function."""
        return self.hooks.init_context(key)

    def next_context(self, key: Array, context: Context) -> Context:
        """By the function."""
        return self.hooks.next_context(key, context)

    def context_features(self, context: Context) -> Array:
        """By the function."""
        return self.hooks.features(context)
