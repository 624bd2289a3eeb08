"""What the runtime knows of learning."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from dynamite_envs.dlcmdp import DLCMDP
from dynamite_jax.agents.agent import Agent
from dynamite_jax.data.types import AgentParams, Array

Metrics = dict[str, Array]


class Algorithm(Protocol):
    """Learns for one seed; the runtime vmaps it over seeds, scans its updates and keeps its states.

    States are pytrees of arrays with a field `faults`: updates so far in which something was not finite.
    """

    @property
    def agent(self) -> Agent:
        """Who learns."""
        ...

    @property
    def hyper(self) -> Any:
        """The numbers that may change without compiling anew, a pytree; `update` gets them traced."""
        ...

    def init(self, env: DLCMDP, seed_id: Array) -> Any:
        """State before the first update; `seed_id`, [], and the config fix all random streams."""
        ...

    def update(self, world: Any, hyper: Any, state: Any) -> tuple[Any, Metrics]:
        """The next state, and scalar metrics; `world` is what is learnt in or from, of most algorithms the environment.

        Either these metrics or those of `measure` have a `return`.
        """
        ...

    def measure(self, world: Any, state: Any) -> Metrics:
        """Scalar metrics of a state, once a chunk."""
        ...

    def agent_params(self, state: Any) -> AgentParams:
        """The part of a state that acts."""
        ...

    def warnings(self, metrics: Mapping[str, Sequence[float]]) -> list[str]:
        """What a user should know of the metrics of a chunk, each of them one number a seed: a line each."""
        ...

    def counts(self, env: DLCMDP) -> dict[str, int]:
        """What one update learns from: `encoder_updates`, `encoder_steps`, `policy_updates`.

        Updates are steps of an optimiser; `encoder_steps` are the environment steps that those of the encoder see, each
        as often as it is seen.
        """
        ...
