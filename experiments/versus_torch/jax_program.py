"""This project's trainer as the benchmark runs it, the counterpart of `torch_reference`.

python -m experiments.versus_torch.jax_program --config runs/NAME/config.json

Prints a JSON line after every chunk: `steps` so far, the `return` of its episodes, and the `snapshot` written.
"""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from dynamite_jax import config as configs
from dynamite_jax.agents.running_statistics import Quantities, moments, with_moments
from dynamite_jax.data.types import AgentParams
from dynamite_jax.datasets.windows import Windows
from dynamite_jax.errors import one_line_errors, parse
from dynamite_jax.runtime import devices
from dynamite_jax.runtime.program import Program
from experiments.versus_torch.torch_reference import weights


@dataclass(frozen=True)
class Arguments:
    """Train by a config, in memory: no run folder, no checkpoints, no evaluation."""

    config: Path
    """config.json of a run."""
    snapshots: Path | None = None
    """Folder for the weights of the first seed, written after every chunk."""


def arrays(params: AgentParams) -> dict[str, np.ndarray]:
    """Parameters and statistics of one seed's agent, by the names of the PyTorch program."""
    by_name = {f"belief.{name}": x for name, x in weights.from_flax(params.belief_params["params"]).items()}
    by_name |= {f"policy.{name}": x for name, x in weights.from_flax(params.policy_params["params"]).items()}
    for name in Quantities._fields:
        mean, deviation = moments(params.normaliser, name)
        by_name |= {f"mean.{name}": np.asarray(mean), f"deviation.{name}": np.asarray(deviation)}
    return by_name


def agent_params(arrays: Any, like: AgentParams) -> AgentParams:
    """The way back from `arrays`, in the structure of `like`."""

    def part(prefix: str) -> dict[str, np.ndarray]:
        return {name.removeprefix(prefix): arrays[name] for name in arrays if name.startswith(prefix)}

    belief, policy = (
        {"params": weights.to_flax(part(prefix), params["params"])}
        for prefix, params in (("belief.", like.belief_params), ("policy.", like.policy_params))
    )
    mean, deviation = (
        Quantities(*(arrays[f"{moment}.{name}"] for name in Quantities._fields)) for moment in ("mean", "deviation")
    )
    return AgentParams(belief, policy, with_moments(mean, deviation))


@one_line_errors
def main() -> None:
    """Train and report."""
    arguments = parse(Arguments, sys.argv[1:])
    config = configs.load(arguments.config)
    devices.setup(config.seeds)
    env = configs.validate(config)
    program = Program(config, env)
    if config.setting == "offline":
        program.worlds = Windows.of_config(config, env).worlds(program)
    states = program.init()
    step = program.compile(states)
    for chunk in range(1, program.chunks + 1):
        states, metrics = step(states)
        line: dict[str, Any] = {
            "return": float(np.mean(metrics["return"])),
            "steps": chunk * program.steps_per_chunk * config.seeds,
            "compile_s": program.compile_s,
        }
        if arguments.snapshots:
            path = arguments.snapshots / f"{chunk}.npz"
            first = jax.tree.map(lambda x: x[0], states.agent_params)
            weights.save(path, arrays(jax.device_get(first)))
            line["snapshot"] = str(path)
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
