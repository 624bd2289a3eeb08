"""Train in PyTorch by a config of this project.

python -m experiments.versus_torch.torch_reference --config runs/NAME/config.json

Prints a JSON line after every meta-update: `steps` so far, the `return` of its episodes, and the `snapshot` written.
"""

import argparse
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

from dynamite_envs.errors import UserError

METHODS = ("dynamite", "varibad")


class Fields(SimpleNamespace):
    """A section of a config."""

    def __getattr__(self, name: str) -> NoReturn:
        """A field that isn't there, as in a config of another version, is bad input."""
        raise AttributeError(name) if name.startswith("__") else UserError(f"the config holds no {name!r}")


def read(path: Path, methods: tuple[str, ...] = METHODS) -> Fields:
    """A config that `dynamite_jax.config.save` wrote; sections are namespaces too.

    Args:
        path: of the file.
        methods: those that are implemented.

    Raises:
        UserError: it isn't JSON, or asks for something that is not implemented in PyTorch.
        OSError: it can't be read.
    """
    try:
        config = json.loads(path.read_text(), object_hook=lambda fields: Fields(**fields))
        choices = {
            "method": (config.method, methods),
            "network.encoder": (config.network.encoder, ("gru",)),
            "vae.boundaries": (config.vae.boundaries, ("labels",)),
            "vae.elbo_terms": (config.vae.elbo_terms, (0,)),
        }
        if not isinstance(config.env_options, Fields):
            raise UserError("env_options holds no options by name, as those of an earlier schema do")
    except (ValueError, AttributeError) as error:  # not JSON, or no object at the top
        raise UserError(f"{path} is no config: {error}") from None
    for name, (value, allowed) in choices.items():
        if value not in allowed:
            raise UserError(f"{name} is {value!r}; in PyTorch it must be one of {', '.join(map(str, allowed))}")
    return config


class Parser(argparse.ArgumentParser):
    """A parser that reports errors in one line."""

    def error(self, message: str) -> NoReturn:
        """One line on stderr, exit code 2."""
        print(f"error: {message}", file=sys.stderr)
        raise SystemExit(2)


def main() -> int:
    """Train and report; bad input is one line on stderr and exit code 2."""
    parser = Parser(prog="python -m experiments.versus_torch.torch_reference", description=__doc__)
    parser.add_argument("--config", type=Path, required=True, help="config.json of a run")
    parser.add_argument("--seed", type=int, default=0, help="of all random streams")
    parser.add_argument("--workers", type=int, default=0, help="processes that step environments; 0: none but this one")
    parser.add_argument("--threads", type=int, default=1, help="of PyTorch's operations")
    parser.add_argument("--snapshots", type=Path, help="folder for weights, written after each --every meta-updates")
    parser.add_argument("--every", type=int, default=10, help="meta-updates between two snapshots")
    arguments = parser.parse_args()
    try:
        run(arguments)
    except (UserError, OSError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return 0


def run(arguments: argparse.Namespace) -> None:
    """Train and report.

    Raises:
        UserError: bad input, or no PyTorch.
        OSError: a file can't be read or written.
    """
    for name, least in {"workers": 0, "threads": 1, "every": 1}.items():
        if getattr(arguments, name) < least:
            raise UserError(f"{name} is {getattr(arguments, name)}; it must be {least} or more")
    config = read(arguments.config)
    try:
        import torch  # pyright: ignore[reportMissingImports]
    except ModuleNotFoundError:
        raise UserError("PyTorch is not installed; `make setup EXTRAS=torch` does that") from None
    from experiments.versus_torch.torch_reference import environments, trainer, weights

    torch.manual_seed(arguments.seed)
    torch.set_num_threads(arguments.threads)
    env = environments.make(config.env, config.num_envs, arguments.workers, **vars(config.env_options))
    try:
        env.reset(seed=arguments.seed)
        steps = config.num_envs * env.horizon
        chunks = -(-config.steps // (config.chunk * steps))  # as many chunks as the JAX program computes
        agent = trainer.Trainer(config, env, chunks * config.chunk)
        while agent.completed_updates < agent.meta_updates:
            line: dict[str, Any] = {"return": agent.meta_update(), "steps": agent.completed_updates * steps}
            if arguments.snapshots and not agent.completed_updates % arguments.every:
                path = arguments.snapshots / f"{agent.completed_updates}.npz"
                weights.save(path, agent.arrays())
                line["snapshot"] = str(path)
            print(json.dumps(line), flush=True)
    finally:
        env.close()


if __name__ == "__main__":
    sys.exit(main())
