"""Physics by MuJoCo Warp, called from MJX."""

from typing import Any

import jax

from dynamite_envs.errors import UserError
from dynamite_envs.physics.mjx import MJX
from dynamite_envs.physics.quiet_mjx import mjx


class Warp(MJX):
    """A `Backend` for NVIDIA GPUs; its sums are not taken in the same order every time."""

    impl = "warp"

    @staticmethod
    def check_machine() -> None:
        """Refuse a machine without the package, or without an NVIDIA GPU.

        Raises:
            UserError: names what is missing.
        """
        from mujoco.mjx.warp import WARP_INSTALLED

        if not WARP_INSTALLED:
            raise UserError("impl is 'warp'; it needs the package warp-lang, which is not installed")
        if jax.default_backend() not in ("gpu", "cuda"):
            raise UserError(f"impl is 'warp'; it needs an NVIDIA GPU, and JAX runs on {jax.default_backend()}")

    def _blank(self) -> Any:
        """An `mjx.Data` with room for every contact and constraint; Warp's own sizes would drop some."""
        most, worlds = super()._blank()._impl, self.simulator.worlds or 1
        contacts = max(1, worlds * most.ncon)
        return mjx.make_data(self.simulator.model, impl="warp", naconmax=contacts, njmax=most.nefc)
