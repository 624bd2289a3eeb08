"""The command that trains, with the fields of the command line and, for the others, those of the preset.

dynamite-jax train --env gridworld --method dynamite --seeds 4
"""

import json
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import tyro
from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo

from dynamite_jax import config as configs
from dynamite_jax import presets
from dynamite_jax.config import Config, ConfigError
from dynamite_jax.errors import Plugins, one_line_errors, parse
from dynamite_jax.runtime import devices, lock, run_folder
from dynamite_jax.runtime.processes import Processes


@dataclass(frozen=True)
class Arguments(Plugins, Processes):
    """Train an agent. Everything lands in one run folder: config, metrics, checkpoints, summary."""

    config: Annotated[Config, tyro.conf.arg(name="")]
    scale: presets.Scale = "cores"
    """What the other defaults are sized for: a few cores, or a GPU or TPU."""
    out: Path | None = None
    """Run folder; by default runs/ENV_METHOD_TIME. A folder that holds a run is never overwritten."""
    resume: bool = False
    """Go on with the run in `out` from its newest valid checkpoint."""
    tensorboard: bool = True
    """Write TensorBoard events."""
    wandb: bool = False
    """Write to Weights & Biases; WANDB_MODE=offline keeps it on this machine."""
    profile: bool = False
    """Write a trace of the second chunk, for TensorBoard or Perfetto."""
    share_envs: int | None = None
    """Devices that share the environments of each seed; by default those that seeds leave over, 1 on CPUs."""


def _arguments(argv: list[str]) -> Arguments:
    """Command line -> arguments. Defaults are those of the preset, or of the run that is resumed."""
    first = parse(_PresetArguments, _only(argv, ("--env", "--method", "--setting", "--scale", "--out")))
    if "--resume" in argv and first.out is not None and (first.out / "config.json").is_file():
        if first.scale is not None:
            raise ConfigError(f"scale is {first.scale!r}; a run that goes on keeps its own, so leave it out")
        preset = configs.load(first.out / "config.json")
    else:
        preset = presets.default(first.env, first.method, first.scale or "cores", first.setting)
    registry = ConstructorRegistry()
    registry.primitive_rule(_environment_options)
    with registry:
        return parse(Arguments, argv, default=Arguments(preset))


def _environment_options(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec | None:
    """How `env_options` is written on the command line; None for fields of other types."""
    if info.type != dict[str, Any]:
        return None
    return PrimitiveConstructorSpec(
        nargs="*",
        metavar="[NAME=VALUE ...]",
        instance_from_str=configs.parse_options,
        is_instance=lambda value: isinstance(value, dict),
        str_from_instance=lambda options: [f"{name}={json.dumps(value)}" for name, value in options.items()],
    )


@dataclass(frozen=True)
class _PresetArguments:
    """The arguments that decide the defaults of all others."""

    env: str = "gridworld"
    method: str = "dynamite"
    setting: presets.Setting = "online"
    scale: presets.Scale | None = None
    out: Path | None = None


def _only(argv: list[str], flags: tuple[str, ...]) -> list[str]:
    """The part of a command line that sets one of `flags`."""
    kept = []
    for position, word in enumerate(argv):
        if word.split("=")[0] in flags:
            kept += [word] if "=" in word else argv[position : position + 2]
    return kept


@one_line_errors
def main() -> None:
    """Train as the command line says."""
    arguments = _arguments(sys.argv[1:])
    config, out = arguments.config, arguments.out
    if out is None and arguments.resume:
        raise ConfigError("out is not set; to resume it must be a run folder")
    if arguments.several and out is None:
        raise ConfigError("out is not set; several processes must name the same folder")
    devices.setup(None if arguments.several else config.seeds * max(arguments.share_envs or 1, 1))
    arguments.join()
    from dynamite_jax.runtime import loop, training

    train = training.train
    if arguments.resume:
        train = partial(train, resume=True)
    elif not _only(sys.argv[1:], ("--chunk",)):
        train = training.train_shortened
    for folder in [out] if out else run_folder.default_names(config):
        try:
            summary = train(
                config,
                folder,
                tensorboard=arguments.tensorboard,
                wandb=arguments.wandb,
                profile=arguments.profile,
                share_envs=arguments.share_envs,
            )
            training.check_left_out(summary)
            return
        except (run_folder.Taken, lock.Locked):  # a default name, taken by a run that started in the same second
            if out:
                raise
        except loop.Diverged as error:
            print(f"error: {error}; see {folder}", file=sys.stderr)
            raise SystemExit(loop.EXIT_CODE) from None
        except KeyboardInterrupt as stop:
            raise type(stop)(f"stopped; go on with --out {folder} --resume") from None


if __name__ == "__main__":
    main()
