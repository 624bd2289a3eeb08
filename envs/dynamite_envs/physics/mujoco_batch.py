"""C MuJoCo as a function of arrays: rows of states and controls in, rows of later states out."""

import threading
from dataclasses import dataclass
from typing import Any

import mujoco as untyped
import numpy as np
from mujoco.batch import Batch

from dynamite_envs.physics.floating import default_mode

mujoco: Any = untyped
VERSIONS = ("3.17.0",)  # of MuJoCo, whose batches and sensors of contacts this was tested with
MOST = 1e10  # MuJoCo takes states and accelerations beyond it for broken; it would go on from the model's first state
CONTACT = 7  # numbers of a contact: force in its frame, whose first axis is the normal; distance; place


@dataclass(frozen=True)
class Layout:
    """Where the numbers of a model stand in a row.

    Attributes:
        state: positions, velocities and warm start, which come first in arguments and results.
        inputs: with controls and applied forces.
        changes: name and shape of each array of the model that rows bring along.
        pairs: pairs of geoms whose contacts are in the results.
    """

    state: int
    inputs: int
    changes: dict[str, tuple[int, ...]]
    pairs: int

    @property
    def result(self) -> int:
        """Numbers of a result."""
        return self.state + CONTACT * self.pairs


class Stepper:
    """Makes steps of one model, a batch of environments a call; threads may call it at once.

    Batches of MuJoCo are made as they are needed, one for each size and caller at a time, and kept.

    Attributes:
        model: with a sensor for each contact that is asked for.
        layout: of rows.
        substeps: of each call.
        threads: that share a call's rows.
    """

    def __init__(self, file: str, substeps: int, changed: tuple[str, ...] = (), contacts: bool = False):
        """Load a model.

        Args:
            file: of the model.
            substeps: steps in each call.
            changed: arrays of the model that differ from row to row: `geom_pos`, `geom_quat` or `geom_size`.
            contacts: whether results hold the contacts of the model's pairs of geoms.
        """
        spec = mujoco.MjSpec.from_file(file)
        pairs = list(spec.pairs) if contacts else []
        for pair in pairs:
            _add_contact_sensor(spec, pair)
        self.model = model = spec.compile()
        model.opt.disableflags |= mujoco.mjtDisableBit.mjDSBL_AUTORESET  # a broken state stays broken
        if model.na or model.nhistory or model.nsensordata != CONTACT * len(pairs):
            raise ValueError(f"{file} has activations, delays or sensors, which rows have no place for")
        if not np.allclose(_radii(model, model.geom_size), model.geom_rbound):
            raise ValueError(f"{file} has geoms whose bounding spheres are not known from their sizes")
        state = model.nq + 2 * model.nv
        changes = {name: getattr(model, name).shape for name in changed}
        self.layout = Layout(state, state + model.nu + model.nv, changes, len(pairs))
        self.substeps = substeps
        self.threads = 1
        self._mode = default_mode()
        self._free: dict[tuple[int, int], list[_Rows]] = {}
        self._lock = threading.Lock()

    def __call__(self, argument: np.ndarray, result: np.ndarray) -> None:
        """Fill `result`, [n, layout.result], from `argument`, [n, layout.inputs and then the changes].

        Rows that hold what is not finite, or come to it, are NaN in the result; other rows do not feel them.
        """
        key = len(argument), min(self.threads, len(argument))
        with self._mode():
            with self._lock:
                free = self._free.setdefault(key, [])
                rows = free.pop() if free else None
            rows = rows or _Rows(self, *key)
            rows.step(argument, result)
            with self._lock:
                free.append(rows)


class _Rows:
    """One batch of MuJoCo."""

    def __init__(self, stepper: Stepper, size: int, threads: int):
        self.layout, self.substeps = stepper.layout, stepper.substeps
        self.batch = batch = Batch(stepper.model, size, threads)
        state = mujoco.mjtState
        kept = (state.mjSTATE_QPOS, state.mjSTATE_QVEL, state.mjSTATE_WARMSTART)
        given = (state.mjSTATE_CTRL, state.mjSTATE_QFRC_APPLIED)
        start = mujoco.mj_stateSize(stepper.model, state.mjSTATE_TIME)
        # In a row of MuJoCo these follow each other, see mjtState.
        self.inputs = batch.state[:, start : start + self.layout.inputs]
        self.state = self.inputs[:, : self.layout.state]
        assert self.layout.inputs == sum(mujoco.mj_stateSize(stepper.model, part) for part in (*kept, *given))
        self.changes = [batch.expand(name).reshape(size, -1) for name in self.layout.changes]
        if "geom_size" in self.layout.changes:
            self.sizes, self.radii = batch.expand("geom_size"), batch.expand("geom_rbound")
        self.sensors = batch.bind("sensordata") if self.layout.pairs else None
        self.warnings = batch.warning[:, :, 1]
        self.warnings[:] = 1  # it speaks when it counts the first one

    def step(self, argument: np.ndarray, result: np.ndarray) -> None:
        """See `Stepper`."""
        layout, model = self.layout, self.batch.model
        self.inputs[:] = argument[:, : layout.inputs]
        first = layout.inputs
        for rows in self.changes:
            rows[:] = argument[:, first : first + rows.shape[1]]
            first += rows.shape[1]
        if "geom_size" in layout.changes:
            self.radii[:] = _radii(model, self.sizes)
        sound = _sound(argument)
        self.batch.step(None if sound is None else np.flatnonzero(sound), nstep=self.substeps)
        result[:, : layout.state] = self.state
        if self.sensors is not None:
            result[:, layout.state :] = self.sensors
        if (self.warnings != 1).any():
            result[(self.warnings != 1).any(axis=1)] = np.nan
            self.warnings[:] = 1
        if sound is not None:
            result[~sound] = np.nan
        if (sound := _sound(result)) is not None:
            result[~sound] = np.nan


def _sound(rows: np.ndarray) -> np.ndarray | None:
    """Which rows hold nothing but numbers that MuJoCo takes for good, [n]; None where all do."""
    size = np.abs(rows)
    if size.max() <= MOST:
        return None
    return np.all(size <= MOST, axis=1)


def _add_contact_sensor(spec: Any, pair: Any) -> None:
    """A sensor of what a pair of geoms exerts on each other: what `CONTACT` counts."""
    kind, field = mujoco.mjtObj.mjOBJ_GEOM, mujoco.mjtConDataField
    sensor = spec.add_sensor(
        name=f"contact of {pair.geomname1} and {pair.geomname2}",
        type=mujoco.mjtSensor.mjSENS_CONTACT,
        objtype=kind,
        objname=pair.geomname1,
        reftype=kind,
        refname=pair.geomname2,
    )
    measured = (field.mjCONDATA_FORCE, field.mjCONDATA_DIST, field.mjCONDATA_POS)
    sensor.intprm[:3] = sum(1 << int(part) for part in measured), 0, 1


def _radii(model: Any, size: np.ndarray) -> np.ndarray:
    """Radius of the sphere around each geom by which collisions are sorted out, m, [..., ngeom] of [..., ngeom, 3]."""
    kind, geom = model.geom_type, mujoco.mjtGeom
    cases = {
        geom.mjGEOM_PLANE: 0.0 * size[..., 0],
        geom.mjGEOM_SPHERE: size[..., 0],
        geom.mjGEOM_CAPSULE: size[..., 0] + size[..., 1],
        geom.mjGEOM_CYLINDER: np.hypot(size[..., 0], size[..., 1]),
        geom.mjGEOM_BOX: np.linalg.norm(size, axis=-1),
    }
    return np.select([kind == case for case in cases], list(cases.values()), np.nan)
