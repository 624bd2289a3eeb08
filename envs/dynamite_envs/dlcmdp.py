"""The dynamic latent contextual MDP: what every environment shares.

An episode has `horizon` steps. A hidden context m is fixed during a session; after each step a Bernoulli(p)
draw d decides whether it is replaced by m' ~ T(. | m). One step is, in this order: physics under m, reward
under m, draw d, draw m'. An environment is a frozen pytree: its numbers (p, the kernel, reward sizes) are
traced leaves, so changing them never recompiles, and its sizes (horizon, number of cells) are static.
"""

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import struct

from dynamite_envs.errors import UserError
from dynamite_envs.spaces import Box, Discrete

Array = jax.Array
Physics = Any
Context = Any


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
        """Observation of a physical state, [observation_size]; it does not depend on the context."""
        raise NotImplementedError  # a hook: subclasses give it

    def context_features(self, context: Context) -> Array:
        """The context as network input, for agents that observe it, [C]."""
        raise NotImplementedError  # a hook: subclasses give it

    @property
    def relabels(self) -> bool:
        """Whether contexts change what steps pay, which `reward` says, and nothing else of them."""
        return False

    def reward(self, before: Physics, after: Physics, action: Array, context: Context) -> Array:
        """What a step from one physical state to another pays under a context; where it `relabels`."""
        raise NotImplementedError  # of an environment whose contexts change the dynamics, or that does not tell

    def outcomes(self, physics: Physics) -> dict[str, Array]:
        """Results of an episode beside its return, such as `success`, from the physical state at its end."""
        return {}

    @property
    def unwrapped(self) -> "DLCMDP":
        """The environment without wrappers."""
        return self

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
