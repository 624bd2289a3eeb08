"""The dynamic latent contextual MDP: what every environment shares.

An episode has `horizon` steps. A hidden context m is fixed during a session; after each step a Bernoulli(p)
draw d decides whether it is replaced by m' ~ T(. | m). One step is, in this order: physics under m, reward
under m, draw d, draw m'. An environment is a frozen pytree: its numbers (p, the kernel, reward sizes) are
traced leaves, so changing them never recompiles, and its sizes (horizon, number of cells) are static.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from dynamite_envs.errors import UserError

Array = jax.Array
Physics = Any
Context = Any


@dataclass(frozen=True)
class Discrete:
    """`n` actions, numbered 0 .. n - 1; batches have shape [...] and an integer type."""

    n: int

    @property
    def size(self) -> int:
        """Numbers needed to show an action to a network (one-hot)."""
        return self.n

    def encode(self, action: Array) -> Array:
        """Network input for an action: one-hot, [...] -> [..., n]."""
        return jax.nn.one_hot(action, self.n)

    def clip(self, action: Array) -> Array:
        """The action that the environment executes: itself."""
        return action

    def zeros(self, batch: tuple[int, ...]) -> Array:
        """A batch of placeholder actions."""
        return jnp.zeros(batch, jnp.int32)


@dataclass(frozen=True)
class Box:
    """Actions in [-1, 1]^size; batches have shape [..., size]."""

    size: int

    def encode(self, action: Array) -> Array:
        """Network input for an action: what the environment executed."""
        return self.clip(action)

    def clip(self, action: Array) -> Array:
        """The action that the environment executes."""
        return jnp.clip(action, -1.0, 1.0)

    def zeros(self, batch: tuple[int, ...]) -> Array:
        """A batch of placeholder actions."""
        return jnp.zeros((*batch, self.size), jnp.float32)


class State(struct.PyTreeNode):
    """One environment at one time. `context`, `session` and `switched` are labels; they never enter `obs`.

    Attributes:
        physics: what the dynamics act on (environment specific).
        obs: observation, [observation_size].
        reward: reward of the step just made, under the context that held during it.
        terminated: the task ended; the state no longer changes and rewards are zero.
        truncated: the horizon was reached.
        context: the context of the *next* step, m_t.
        session: index of the session that `context` belongs to, from 0.
        switched: d, whether the context was redrawn at the end of the step just made.
        step: steps made since the reset.
        latent_key: stream of the session process alone, so that the same contexts replay under any policy.
        key: stream of everything else.
    """

    physics: Physics
    obs: Array
    reward: Array
    terminated: Array
    truncated: Array
    context: Context
    session: Array
    switched: Array
    step: Array
    latent_key: Array
    key: Array


class DLCMDP(struct.PyTreeNode):
    """Base of all environments. A subclass gives the seven hooks below and the class attributes.

    Attributes:
        p: probability that the context is redrawn after a step; 0 is a contextual MDP, 1 redraws every step.
        horizon: steps of an episode.
        reset_on_switch: whether the physical state is drawn anew when the context switches.
    """

    p: Array | float
    horizon: int = struct.field(pytree_node=False)
    reset_on_switch: bool = struct.field(pytree_node=False, default=False)

    # -- hooks -----------------------------------------------------------------------------------------------
    @property
    def observation_size(self) -> int:
        """Length of `obs`."""
        raise NotImplementedError  # a hook: subclasses give it

    @property
    def action_space(self) -> Discrete | Box:
        """The actions it takes."""
        raise NotImplementedError  # a hook: subclasses give it

    @property
    def decode_state(self) -> bool:
        """Whether the context changes the dynamics, so that the next state should be reconstructed too."""
        return False

    def init_physics(self, key: Array) -> Physics:
        """Draw the physical state at the start of an episode."""
        raise NotImplementedError  # a hook: subclasses give it

    def init_context(self, key: Array) -> Context:
        """Draw the first context."""
        raise NotImplementedError  # a hook: subclasses give it

    def next_context(self, key: Array, context: Context) -> Context:
        """Draw from the context kernel, m' ~ T(. | m)."""
        raise NotImplementedError  # a hook: subclasses give it

    def dynamics(self, physics: Physics, context: Context, action: Array, key: Array) -> tuple[Physics, Array, Array]:
        """One step under a fixed context: (next physics, reward, terminated)."""
        raise NotImplementedError  # a hook: subclasses give it

    def observe(self, physics: Physics) -> Array:
        """Observation of a physical state, [observation_size]; it cannot see the context."""
        raise NotImplementedError  # a hook: subclasses give it

    def context_features(self, context: Context) -> Array:
        """The context as network input, for agents that are told it, [C]."""
        raise NotImplementedError  # a hook: subclasses give it

    # -- what is known of it; an environment gives what it has ------------------------------------------------
    def references(self) -> dict[str, float]:
        """Known mean returns of whole episodes, such as `bayes_optimal`; computed, not looked up."""
        return {}

    def outcomes(self, physics: Physics) -> dict[str, Array]:
        """What else an episode came to, numbers of the physical state at its end, such as `success`."""
        return {}

    @property
    def has_regret(self) -> bool:
        """Whether the value of every action is known exactly; then the hook below is given."""
        return False

    def regret(self, physics: Physics, action: np.ndarray, reward: np.ndarray) -> np.ndarray:
        """How much less than the best the actions of whole episodes were worth.

        Args:
            physics: at s_0 .. s_H of N episodes, leaves [H + 1, N, ...].
            action: [H, N, ...], of an agent that is not told the context.
            reward: [H, N].

        Returns:
            Bayes-optimal return minus that of the agent, estimated from each episode, [N].
        """
        raise NotImplementedError  # given where `has_regret`

    @property
    def has_filter(self) -> bool:
        """Whether the posterior of the context is known exactly; then the two hooks below are given."""
        return False

    def init_posterior(self) -> Array:
        """Probabilities of the n contexts before the first step, [n]."""
        raise NotImplementedError  # given where `has_filter`

    def filter_step(self, posterior: Array, physics: Physics, reward: Array) -> Array:
        """Exact Bayes filter.

        Args:
            posterior: P(m_t | everything before step t), [n].
            physics: physical state after the step.
            reward: reward of the step, [].

        Returns:
            P(m_{t+1} | everything up to step t), [n].
        """
        raise NotImplementedError  # given where `has_filter`

    def decoded_posterior(self, physics: Physics, decode_reward: Callable[[Array, Array, Array], Array]) -> Array:
        """The posterior that a model of the reward implies.

        Args:
            physics: physical state.
            decode_reward: expected reward of steps (s [k, O], a [k, ...], s' [k, O]) -> [k].

        Returns:
            Probabilities of the contexts, [n].
        """
        raise NotImplementedError  # given where `has_filter`

    # -- the contract ----------------------------------------------------------------------------------------
    def reset(self, key: Array) -> State:
        """Start an episode: new physics, new context, session 0."""
        key, latent_key, physics_key = jax.random.split(key, 3)
        latent_key, context_key = jax.random.split(latent_key)
        physics = self.init_physics(physics_key)
        return State(
            physics=physics,
            obs=self.observe(physics),
            reward=jnp.zeros(()),
            terminated=jnp.zeros((), bool),
            truncated=jnp.zeros((), bool),
            context=self.init_context(context_key),
            session=jnp.zeros((), jnp.int32),
            switched=jnp.zeros((), bool),
            step=jnp.zeros((), jnp.int32),
            latent_key=latent_key,
            key=key,
        )

    def step(self, state: State, action: Array) -> State:
        """Act in (s_t, m_t), then let the session process move on.

        Args:
            state: the environment.
            action: [] for discrete and [size] for continuous actions; the latter are clipped to [-1, 1].

        Returns:
            The state after the step. Its reward was made under `state.context`.
        """
        key, dynamics_key, reset_key = jax.random.split(state.key, 3)
        action = self.action_space.clip(action)
        physics, reward, terminated = self.dynamics(state.physics, state.context, action, dynamics_key)

        # One latent draw a step whatever happens: the stream depends on nothing but its own key.
        latent_key, switch_key, context_key = jax.random.split(state.latent_key, 3)
        switched = jax.random.bernoulli(switch_key, self.p)
        context = _where(switched, self.next_context(context_key, state.context), state.context)
        if self.reset_on_switch:
            physics = _where(switched, self.init_physics(reset_key), physics)

        over = state.terminated
        physics = _where(over, state.physics, physics)
        return State(
            physics=physics,
            obs=self.observe(physics),
            reward=jnp.where(over, 0.0, reward),
            terminated=over | terminated,
            truncated=state.step + 1 >= self.horizon,
            context=context,
            session=state.session + switched,
            switched=switched,
            step=state.step + 1,
            latent_key=latent_key,
            key=key,
        )


class FiniteDLCMDP(DLCMDP):
    """A DLCMDP whose context is an index 0 .. n - 1.

    Attributes:
        contexts: n, where the environment fixes it; None where `initial` may have any length.
        initial: distribution of the first context, [n].
        kernel: row m is the distribution T(. | m), [n, n].
    """

    contexts: ClassVar[int | None] = None
    initial: Array = struct.field(kw_only=True)
    kernel: Array = struct.field(kw_only=True)

    def init_context(self, key: Array) -> Array:
        """Draw the first context from `initial`."""
        return _draw(key, self.initial)

    def next_context(self, key: Array, context: Array) -> Array:
        """Draw from the row of `kernel`."""
        return _draw(key, self.kernel[context])

    def context_features(self, context: Array) -> Array:
        """One-hot context, [n]."""
        return jax.nn.one_hot(context, self.initial.shape[-1])


def check_probability(name: str, value: float) -> None:
    """Refuse an argument of a maker that is no probability.

    Raises:
        UserError: names the argument and its value.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0.0 <= value <= 1.0:
        raise UserError(f"{name} is {value!r}; it must be a probability, 0 to 1")


def check_flag(name: str, value: bool) -> None:
    """Refuse an argument of a maker that is neither true nor false.

    Raises:
        UserError: names the argument and its value.
    """
    if type(value) is not bool:
        raise UserError(f"{name} is {value!r}; it must be true or false")


def check_count(name: str, value: int | None, least: int) -> None:
    """Refuse an argument of a maker that is no whole number of at least `least`.

    Raises:
        UserError: names the argument and its value.
    """
    if type(value) is not int or value < least:
        raise UserError(f"{name} is {value!r}; it must be a whole number of at least {least}")


def check_not_negative(**values: Any) -> None:
    """Refuse arguments of a maker that are below 0. That they are numbers, and how many, the registry checks.

    Raises:
        UserError: names the argument and its value.
    """
    for name, value in values.items():
        if isinstance(value, int | float) and value < 0:
            raise UserError(f"{name} is {value!r}; it must be 0 or more")


def _draw(key: Array, probabilities: Array) -> Array:
    """Index drawn by the inverse of the cumulative distribution; rounding can't reach past the last one."""
    edges = jnp.cumsum(probabilities)[:-1]
    return jnp.sum(jax.random.uniform(key) >= edges).astype(jnp.int32)


def _where(condition: Array, new: Any, old: Any) -> Any:
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), new, old)
