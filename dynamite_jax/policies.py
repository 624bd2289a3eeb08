"""The trained agent of one seed: how it acts, and as files.

A folder holds `config.json`, `policy.safetensors`, and the agent as StableHLO, by `jax.export`, which runs without this
package: `init.stablehlo` and `act.stablehlo`.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
from jax import export
from safetensors.numpy import load_file
from safetensors.numpy import save as packed

from dynamite_envs.errors import UserError
from dynamite_jax import config as configs
from dynamite_jax.agents.agent import Agent, AgentState
from dynamite_jax.config import Config, PhysicsConfig
from dynamite_jax.data.types import AgentParams, Array
from dynamite_jax.errors import writing
from dynamite_jax.runtime.program import Program

CONFIG, WEIGHTS, INIT, ACT = "config.json", "policy.safetensors", "init.stablehlo", "act.stablehlo"
PLATFORMS = ("cpu", "cuda", "tpu")


@dataclass(frozen=True)
class Policy:
    """The trained agent of one seed, for one episode at a time; its belief is carried in an `AgentState`.

    Attributes:
        config: of the run that trained it.
        agent: the agent.
        params: its parameters and statistics.
    """

    config: Config
    agent: Agent
    params: AgentParams

    def init(self) -> AgentState:
        """State before the first observation of an episode."""
        return self.agent.init((1,))

    def act(
        self, state: AgentState, observation: Any, reward: Any = 0.0, key: Array | None = None
    ) -> tuple[Array, AgentState]:
        """Take in an observation and act on it.

        Args:
            state: from `init`, or from the step before.
            observation: s_t, [O]; of the oracle it ends with the features of the context.
            reward: r_{t-1}, []; ignored before the first action.
            key: of a sample; without one the mode of the policy is taken.

        Returns:
            The action that an environment executes, [] or [size], and the next state.

        Raises:
            UserError: the observation is of another size.
        """
        observation, reward = np.asarray(observation, np.float32), np.asarray(reward, np.float32)
        size = self.params.normaliser.mean.observation.value.shape
        if observation.shape != size:
            raise UserError(f"observation is of shape {list(observation.shape)}; it must be {list(size)}")
        return self._act(self.params, state, observation=observation, reward=reward, key=key)

    def boundary(self, state: AgentState) -> bool:
        """Whether it took the newest reward for the first of a new session, in the state that `act` gave."""
        return bool(self.agent.belief.boundary(state.belief)[0])

    def save(self, folder: Path | str) -> None:
        """Write it as files, into a folder that is new or empty.

        Raises:
            UserError: the folder holds something, or can't be written.
        """
        folder = Path(folder)
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise UserError(f"out is {str(folder)!r}, which is already used; name a new folder")
        programs = _programs(self.agent, self.params)
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            configs.save(self.config, folder / CONFIG)
            weights = {name: np.asarray(x) for name, x in _named(self.params).items()}
            (folder / WEIGHTS).write_bytes(packed(weights))
            for name, program in programs.items():
                (folder / name).write_bytes(program.serialize())

    @cached_property
    def _act(self) -> Callable:
        return jax.jit(partial(_act, self.agent))


def load(folder: Path | str) -> Policy:
    """The policy that `Policy.save` wrote.

    Raises:
        UserError: a file is missing or damaged, or the weights are not those of an agent of the config.
    """
    folder = Path(folder)
    config = configs.load(folder / CONFIG)
    try:
        weights = load_file(folder / WEIGHTS)
    except OSError as error:
        raise UserError(f"policy: {folder / WEIGHTS} can't be read: {error.strerror or error}") from None
    except safetensors.SafetensorError as error:
        raise UserError(f"policy: {folder / WEIGHTS} is damaged: {error}") from None
    config = dataclasses.replace(config, physics=PhysicsConfig())  # that of this machine
    program = Program(config, configs.validate(config))
    state = jax.eval_shape(partial(program.algorithm.init, program.env), jnp.zeros((), jnp.int32))
    expected = program.algorithm.agent_params(state)
    shapes = {name: (x.shape, np.dtype(x.dtype)) for name, x in _named(expected).items()}
    found = {name: (x.shape, x.dtype) for name, x in weights.items()}
    for name in sorted(shapes.keys() | found.keys()):
        if shapes.get(name) != found.get(name):
            here, there = (_in_words(table.get(name)) for table in (found, shapes))
            raise UserError(f"policy: {name} of {folder / WEIGHTS} is {here}; by {CONFIG} it must be {there}")
    leaves = [jnp.asarray(weights[name]) for name in _named(expected)]
    return Policy(config, program.agent, jax.tree.unflatten(jax.tree.structure(expected), leaves))


def _act(
    agent: Agent, params: AgentParams, state: AgentState, *, observation: Array, reward: Array, key: Array | None
) -> tuple[Array, AgentState]:
    action, _, state, _ = agent.act(params, state, observation=observation[None], reward=reward[None], key=key)
    return agent.space.clip(action)[0], state


def _named(params: Any) -> dict[str, Any]:
    """Arrays by the paths of their places."""
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}


def _in_words(kind: tuple | None) -> str:
    return "missing" if kind is None else f"{kind[1]}{list(kind[0])}"


def _programs(agent: Agent, params: AgentParams) -> dict[str, export.Exported]:
    """The agent with its weights, for B episodes side by side, of plain arrays and tuples of them.

    `init(observation [B, O])` gives the state before the first observation; `act(state, observation [B, O],
    reward [B])` the actions that an environment executes, [B, ...], whether a boundary is predicted, [B], and the next
    state.
    """
    structure = jax.tree.structure(jax.eval_shape(lambda: agent.init((1,))))

    def init(observation: Array) -> tuple[Array, ...]:
        return tuple(jax.tree.leaves(agent.init(observation.shape[:1])))

    def act(state: tuple[Array, ...], observation: Array, reward: Array) -> tuple[Array, Array, tuple[Array, ...]]:
        before = jax.tree.unflatten(structure, state)
        action, _, after, insight = agent.act(params, before, observation=observation, reward=reward)
        return agent.space.clip(action), insight.boundary, tuple(jax.tree.leaves(after))

    (batch,) = export.symbolic_shape("B")
    size = params.normaliser.mean.observation.value.shape
    observation = jax.ShapeDtypeStruct((batch, *size), jnp.float32)
    reward = jax.ShapeDtypeStruct((batch,), jnp.float32)
    state = jax.eval_shape(init, observation)
    lower = partial(export.export, platforms=PLATFORMS)
    return {
        INIT: lower(jax.jit(init))(observation),
        ACT: lower(jax.jit(act))(state, observation, reward),
    }
