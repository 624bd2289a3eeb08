"""The Python interface: what `import dynamite_jax as dj` offers beside the commands."""

import dataclasses
import difflib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dynamite_envs import registry
from dynamite_envs.dlcmdp import DLCMDP
from dynamite_envs.errors import UserError
from dynamite_jax import config as configs
from dynamite_jax import methods, policies, presets, rules
from dynamite_jax.analysis import evaluation
from dynamite_jax.config import Config
from dynamite_jax.data.types import AgentParams
from dynamite_jax.methods.method import Method, keep
from dynamite_jax.policies import Policy
from dynamite_jax.runtime import loggers, run_folder, training
from dynamite_jax.runtime.program import Program

SEED = 1_000_000  # root of the episodes of an evaluation, far from the roots of training


def preset(env: str, method: str = "dynamite", scale: presets.Scale = "cores", **changes: Any) -> Config:
    """The preset of a method in an environment, with some fields changed.

    Args:
        env: name of the environment.
        method: name of the method.
        scale: what it is sized for: a few cores, or a GPU or TPU.
        **changes: fields of `Config` by name; those of its sections with a dot, as in `**{"ppo.lr": 3e-4}`.

    Raises:
        UserError: a name that is unknown, with the nearest one, or a value that is not allowed.
    """
    config = presets.default(env, method, scale, changes.get("setting"))
    known = [name for name, _, _ in rules.fields(config)] + [field.name for field in dataclasses.fields(config)]
    for name in changes:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
            hint = f"did you mean {close[0]!r}?" if close else f"allowed: {', '.join(known)}"
            raise UserError(f"{name} is no field of a config; {hint}")
    config = configs.changed(config, changes)
    configs.validate(config)
    return config


@dataclass(frozen=True)
class Run:
    """A trained run.

    Attributes:
        program: its environment, agents and layout.
        params: parameters and statistics of every seed's agent, [seeds, ...].
        records: one for each chunk of training, as in `metrics.jsonl`.
        folder: its run folder; None where nothing was written.
    """

    program: Program
    params: AgentParams
    records: list[loggers.Record]
    folder: Path | None = None

    @property
    def config(self) -> Config:
        """The config that was trained."""
        return self.program.config

    @property
    def summary(self) -> loggers.Record | None:
        """The contents of `summary.json`; None where there is none."""
        finished = self.folder and (self.folder / run_folder.SUMMARY).is_file()
        return run_folder.read_summary(self.folder) if self.folder and finished else None

    def policy(self, seed: int = 0) -> Policy:
        """The agent of one seed.

        Raises:
            UserError: there is no such seed.
        """
        if not 0 <= seed < self.config.seeds:
            raise UserError(f"seed is {seed}; it must be from 0 to {self.config.seeds - 1}")
        params = jax.tree.map(lambda x: jnp.asarray(x[seed]), jax.device_get(self.params))
        return Policy(self.config, self.program.agent, params)


@dataclass(frozen=True)
class Evaluation:
    """Measurements of the agents on fresh episodes.

    Attributes:
        record: all of them, as in `evaluation.json`; see `analysis.evaluation.evaluate`.
    """

    record: loggers.Record

    @property
    def returns(self) -> np.ndarray:
        """Mean return of each seed, [seeds]."""
        return np.array(self.record["return"]["per_seed"])


def train(
    config: Config,
    out: Path | str | None = None,
    *,
    resume: bool = False,
    tensorboard: bool = False,
    wandb: bool = False,
    share_envs: int | None = None,
) -> Run:
    """Train every seed of a config.

    Args:
        config: the run.
        out: run folder, which gets config, metrics, checkpoints and a summary with an evaluation; without it nothing is
            written.
        resume: continue the run in `out`.
        tensorboard: write TensorBoard events into `out`.
        wandb: write to Weights & Biases.
        share_envs: devices that share the environments of each seed; by default those that seeds leave over, 1 on CPUs.

    Raises:
        UserError: the config, `out` or its checkpoints can't be used.
        Diverged: something is not finite.
    """
    if out is not None:
        training.train(config, Path(out), resume=resume, tensorboard=tensorboard, wandb=wandb, share_envs=share_envs)
        return load_run(out)
    for name, value in (("resume", resume), ("tensorboard", tensorboard), ("wandb", wandb)):
        if value:
            raise UserError(f"{name} is True; it needs out, a run folder")
    program, params, records = training.train_in_memory(config, share_envs)
    return Run(program, params, records)


def load_run(path: Path | str) -> Run:
    """The run in a folder, with its newest valid checkpoint.

    Raises:
        UserError: there is no run, or none of its checkpoints can be trusted.
    """
    folder = Path(path)
    program, params, chunk = evaluation.load_run(folder)
    records = [record for record in loggers.read(folder / "metrics.jsonl") if record["chunk"] <= chunk]
    return Run(program, params, records, folder=folder)


def load_policy(path: Path | str) -> Policy:
    """The policy in a folder that `Policy.save` or the command `export` wrote.

    Raises:
        UserError: a file is missing or damaged, or the weights are not those of an agent of the config.
    """
    return policies.load(path)


def evaluate(run: Run, episodes: int | None = None, seed: int = SEED) -> Evaluation:
    """Play fresh episodes with the deterministic policy of every seed.

    Args:
        run: its agents play.
        episodes: number of episodes of each seed; by default that of the config.
        seed: root of the contexts and start states, which are the same for every agent.

    Raises:
        UserError: the number of episodes is below 1.
    """
    episodes = run.config.eval_episodes if episodes is None else episodes
    if episodes < 1:
        raise UserError(f"episodes is {episodes}; it must be 1 or more")
    return Evaluation(evaluation.evaluate(run.program, run.params, episodes=episodes, seed=seed))


def make_env(name: str, **options: Any) -> DLCMDP:
    """An environment by its name.

    Args:
        name: see `dynamite_envs.registry`.
        **options: its fields and the arguments of its maker.

    Raises:
        UserError: an unknown name or option, or a value that is not allowed.
    """
    return registry.make(name, **options)


def register_env(name: str, make: Callable[..., DLCMDP]) -> None:
    """Register an environment under a name.

    Args:
        name: of the environment.
        make: builds it from its options.

    Raises:
        UserError: another environment has the name.
    """
    registry.register(name, make)


def register_method(
    name: str, build: Callable[..., Any], configure: Callable[[Config], Config] = keep, **abilities: Any
) -> None:
    """Register a method under a name.

    Args:
        name: of the method.
        build: (config, env) -> its `Belief`.
        configure: the preset of an environment -> that of the method in it.
        **abilities: what it supports, and another algorithm; see `methods.method.Method`.

    Raises:
        UserError: another method has the name.
    """
    if "algorithm" in abilities:  # which trains by itself, so not from recorded episodes
        abilities = {"settings": ("online",), **abilities}
    methods.register(name, Method(belief=build, configure=configure, **abilities))
