"""Physics by MuJoCo's own engine, in C, called from inside compiled programs on the CPU."""

import functools
import hashlib
import os
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dynamite_envs.errors import UserError
from dynamite_envs.physics import ffi
from dynamite_envs.physics.backend import Contact, M, Motion, Simulator

Array = jax.Array

OPERATION = "dynamite_mujoco_steps"
CHANGEABLE = ("geom_pos", "geom_quat", "geom_size")  # as they follow each other in a row

_steppers: dict[bytes, Any] = {}  # by key; programs name them, also those that come from the compilation cache


class C:
    """A `Backend` for CPUs: three times MJX's speed, and compiled in no time. It has no gradient."""

    impl = "c"

    def __init__(self, simulator: Simulator):
        """Nothing is loaded yet."""
        self.simulator = simulator

    @staticmethod
    def check_machine() -> None:
        """Refuse a machine whose devices are no CPUs, or on which the engine can't be called.

        Raises:
            UserError: says why.
        """
        if reason := _unusable():
            raise UserError(f"impl is 'c'; {reason}")

    def advance(self, motion: M, control: Array, applied: Array) -> M:
        """Make all substeps under one control."""
        return self._advance(motion, control, applied, {}, contacts=False)[0]

    def advance_with_contacts(
        self, motion: M, control: Array, applied: Array, changes: Mapping[str, Array]
    ) -> tuple[M, Contact]:
        """Make all substeps of a changed model, and return the contacts of the last one."""
        motion, numbers = self._advance(motion, control, applied, changes, contacts=True)
        contact = numbers.reshape(-1, 7)  # force in the contact's frame, distance, place
        return motion, Contact(contact[:, 3] < 0.0, contact[:, 0], contact[:, 4:])

    def _advance(
        self, motion: M, control: Array, applied: Array, changes: Mapping[str, Array], contacts: bool
    ) -> tuple[M, Array]:
        """Later motion, and the numbers of the contacts."""
        model, dtype = self.simulator.model, jnp.result_type(motion.qpos)
        changed = tuple(name for name in CHANGEABLE if name in changes)
        if unknown := set(changes) - set(changed):
            raise ValueError(f"C MuJoCo is given {', '.join(sorted(unknown))}; only {', '.join(CHANGEABLE)} can change")
        key, size = _load(self.simulator, changed, contacts)
        parts = (motion.qpos, motion.qvel, motion.warmstart, control, applied, *(changes[name] for name in changed))
        row = jnp.concatenate([jnp.ravel(jnp.asarray(part, dtype)) for part in parts])
        ends = np.cumsum([model.nq, model.nv, model.nv])
        qpos, qvel, warmstart, numbers = jnp.split(_steps(key, size, row), ends)
        return motion.replace(qpos=qpos, qvel=qvel, warmstart=warmstart), numbers


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _steps(key: str, size: int, row: Array) -> Array:
    return ffi.call(OPERATION, key, row, size)


@_steps.defjvp
def _refuse_gradient(key: str, size: int, primals: Any, tangents: Any) -> Any:
    raise TypeError("physics by C MuJoCo has no gradient; impl 'jax' has")


def _load(simulator: Simulator, changed: tuple[str, ...], contacts: bool) -> tuple[str, int]:
    """Make a model's steps ready; the key that names them in compiled programs, and the numbers of their result.

    The key depends on what is computed alone, so that a later process finds the program in the compilation cache.
    """
    from dynamite_envs.physics.mujoco_batch import Stepper

    ffi.register(OPERATION, _step_rows)
    what = f"{simulator.substeps} {changed} {contacts}".encode() + simulator.file.read_bytes()
    key = f"{simulator.asset}-{hashlib.blake2b(what, digest_size=8).hexdigest()}"
    stepper = _steppers.get(key.encode())
    if stepper is None:
        stepper = Stepper(str(simulator.file), simulator.substeps, changed, contacts)
        _steppers[key.encode()] = stepper
    stepper.threads = max(1, cores() // jax.local_device_count())  # one device uses all cores, one each a single one
    return key, stepper.layout.result


def _step_rows(key: bytes, argument: np.ndarray, result: np.ndarray) -> None:
    """What compiled programs call."""
    _steppers[key](argument, result)


def cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _unusable() -> str | None:
    """Why the engine can't be used here, None where it can."""
    if jax.default_backend() != "cpu":
        return f"it runs on CPUs, and JAX runs on {jax.default_backend()}"
    return _unusable_on_cpu()


@functools.cache
def _unusable_on_cpu() -> str | None:
    """The same, tried once."""
    import mujoco

    try:
        from dynamite_envs.physics.mujoco_batch import VERSIONS

        if mujoco.__version__ not in VERSIONS:
            return f"it needs MuJoCo {' or '.join(VERSIONS)}, and {mujoco.__version__} is installed"
        return None if _steps_as_mujoco() else "its first step here is not MuJoCo's"
    except (ImportError, OSError, AttributeError, ffi.Unsupported) as error:
        return f"it can't be called here: {error}"


def _steps_as_mujoco() -> bool:
    """Whether a compiled program moves a known model to where MuJoCo moves it, to the bit."""
    import mujoco as untyped

    mujoco: Any = untyped
    simulator = Simulator("reacher", substeps=2)
    data = mujoco.MjData(simulator.model)
    data.qpos[:], data.qvel[:], data.ctrl[:] = (0.5, -1.0), (2.0, -3.0), (0.25, -0.5)
    start = Motion(*(jnp.asarray(x, jnp.float32) for x in (data.qpos, data.qvel, data.qacc_warmstart)))
    control = jnp.asarray(data.ctrl, jnp.float32)
    for _ in range(simulator.substeps):
        mujoco.mj_step(simulator.model, data)
    with jax.ensure_compile_time_eval():
        after = jax.jit(C(simulator).advance)(start, control, jnp.zeros(2))
    expected = (data.qpos, data.qvel, data.qacc_warmstart)
    return all(np.array_equal(x, np.float32(y)) for x, y in zip(jax.tree.leaves(after), expected, strict=True))
