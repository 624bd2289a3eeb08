"""A run's folder: made its own at the start, marked as finished by its summary."""

import json
from pathlib import Path

from dynamite_jax import config as configs
from dynamite_jax.config import Config, ConfigError
from dynamite_jax.errors import writing
from dynamite_jax.runtime.loggers import Record


def claim(out: Path, config: Config, resume: bool) -> None:
    """Make the run folder ours, or check that it holds the very run to go on with."""
    path = out / "config.json"
    if resume:
        if not path.is_file():
            raise ConfigError(f"out is {str(out)!r}; to resume it must be a run folder, one with a config.json")
        if changed := configs.differences(configs.load(path), config):
            raise ConfigError(f"resume: the run in {out} has another config; {'; '.join(changed)}")
        return
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"out is {str(out)!r}, which is already used; name a new folder, or add --resume to go on")
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
        configs.save(config, path)


def write_summary(out: Path, summary: Record) -> None:
    """Write summary.json, complete or not at all: it marks a finished run."""
    part = out / "summary.json.part"
    part.write_text(json.dumps(summary, indent=2) + "\n")
    part.replace(out / "summary.json")
