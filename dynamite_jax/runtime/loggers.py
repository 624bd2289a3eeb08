"""Where metrics go: metrics.jsonl, TensorBoard, Weights & Biases."""

import json
import uuid
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from dynamite_envs.errors import UserError
from dynamite_jax.errors import writing

Record = dict[str, Any]

WANDB_ID = "wandb_id"


class Memory:
    """A log in memory, for runs that write nothing."""

    def __init__(self):
        """Start without records."""
        self.records: list[Record] = []

    def write(self, record: Record) -> None:
        """Add one record."""
        self.records.append(record)


class Log:
    """metrics.jsonl, and TensorBoard and W&B where enabled: one record a chunk.

    After a crash the file may hold chunks later than any checkpoint; they are cut off when the run is resumed.
    """

    def __init__(self, folder: Path, completed_chunks: int, *, tensorboard: bool, wandb: bool, config: Record):
        """Open the logs of a run.

        Args:
            folder: run folder.
            completed_chunks: number of chunks that are completed.
            tensorboard: whether to write TensorBoard events.
            wandb: whether to write to Weights & Biases.
            config: fields of the config, for Weights & Biases.
        """
        self._path = folder / "metrics.jsonl"
        kept = (
            [record for record in read(self._path) if record["chunk"] <= completed_chunks] if completed_chunks else []
        )
        with writing(self._path):
            self._path.write_text("".join(json.dumps(record) + "\n" for record in kept))
            self._file = self._path.open("a")
        self._writer: Any = None
        self._wandb: Any = None
        if tensorboard:
            from tensorboardX import SummaryWriter

            purge = kept[-1]["env_steps"] + 1 if kept else 0
            # Written by a thread, that a full disk ends; nothing may wait for it then to empty its queue.
            with writing(folder / "tensorboard"):
                self._writer = SummaryWriter(str(folder / "tensorboard"), purge_step=purge, max_queue=10**9)
        if wandb:
            import wandb as client  # pyright: ignore[reportMissingImports]

            names = {"project": "dynamite_jax", "dir": str(folder), "name": folder.name, "id": _wandb_id(folder)}
            self._wandb = client.init(**names, resume="allow", config=config, allow_val_change=True)

    def write(self, record: Record) -> None:
        """Add one record; a list holds one number a seed.

        Raises:
            UserError: it can't be written.
        """
        with writing(self._path):
            self._file.write(json.dumps(record) + "\n")
            self._file.flush()
        flat = {name: float(np.mean(value)) for name, value in record.items() if not name.startswith("chunk")}
        if self._writer is not None:
            for name, value in flat.items():
                self._writer.add_scalar(name, value, record["env_steps"])
        if self._wandb is not None:
            self._wandb.log(flat, step=record["env_steps"])

    def close(self) -> None:
        """Close all logs."""
        with writing(self._path):
            self._file.close()
        if self._writer is not None:
            events = self._writer.file_writer.event_writer
            events._closed = not events._worker.is_alive()
            self._writer.close()
        if self._wandb is not None:
            self._wandb.finish()


def _wandb_id(folder: Path) -> str:
    """The run's identity with Weights & Biases, where it goes on as the same run; kept in its folder."""
    path = folder / WANDB_ID
    if not path.exists():
        with writing(path):
            path.write_text(uuid.uuid4().hex + "\n")
    return path.read_text().strip()


def check_wandb() -> None:
    """Refuse W&B where it isn't installed.

    Raises:
        UserError: says how to install it.
    """
    if find_spec("wandb") is None:
        raise UserError("wandb is True; the package is missing, set up with `make setup EXTRAS=wandb`")


def read(path: Path) -> list[Record]:
    """Records of a metrics.jsonl; a last line that a crash cut short is left out."""
    records = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            records.append(json.loads(line))
        except ValueError:
            break
    return records
