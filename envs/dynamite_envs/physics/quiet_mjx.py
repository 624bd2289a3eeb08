"""MJX, imported without the line that it prints where the optional package warp is missing."""

import contextlib
import io

with contextlib.redirect_stdout(io.StringIO()):
    from mujoco import mjx

__all__ = ["mjx"]
