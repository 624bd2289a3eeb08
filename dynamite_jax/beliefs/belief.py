"""What a belief is to the agent."""

from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from dynamite_envs.dlcmdp import DLCMDP, Context
from dynamite_jax.config import Config, VAEConfig
from dynamite_jax.data.types import Array, Params, Trajectories


class Belief:
    """What an agent knows of the context: its start, its update, its features for the policy, and its loss.

    A method builds one. The belief itself is immutable; its parameters and its state are pytrees given to it. It meets
    observations and rewards in deviations from their running means (`Agent.evidence`), whatever their units are. The
    policy learns on what `encode` makes of episodes once these means and the parameters have moved. This class has no
    parameters, no memory and no features.

    Attributes:
        learns: whether it has a `loss` of its own; then it is updated by `VAEConfig`, before the policy.
        end_to_end: whether the loss of the policy trains it; then `encode` is called inside that loss.
        detects: whether `boundary` is ever true.
        decodes: whether it has `decode_reward`, so that evaluation can compare it with an exact posterior.
    """

    learns: ClassVar[bool] = False
    end_to_end: ClassVar[bool] = False
    decodes: ClassVar[bool] = False

    @classmethod
    def build(cls, config: Config, env: DLCMDP) -> "Belief":
        """The belief that a config asks for in an environment."""
        return cls()

    @property
    def detects(self) -> bool:
        """Not here."""
        return False

    def init(self, key: Array) -> Params:
        """Parameters."""
        return {}

    def initial(self, batch: tuple[int, ...]) -> Any:
        """State before the first observation, [*batch, ...]."""
        return jnp.zeros(batch, bool)  # not of size 0: such arrays lose their place among devices

    def update(self, params: Params, state: Any, observation: Array, action: Array, reward: Array) -> Any:
        """Take in (s_t, a_{t-1}, r_{t-1}), [E, O], [E, ...], [E]; zero action and reward at t = 0."""
        return state

    def features(self, state: Any) -> Array:
        """Inputs of policy and critic, [..., F]."""
        return jnp.zeros((*jax.tree.leaves(state)[0].shape[:1], 0))

    def boundary(self, state: Any) -> Array:
        """Whether the newest evidence is taken to come from a new session, [E]. Never, by default."""
        return jnp.zeros(jax.tree.leaves(state)[0].shape[:1], bool)

    def summary(self, state: Any) -> Any:
        """The part of the state that `decode_reward` needs."""
        return ()

    def label(self, env: DLCMDP, context: Context) -> Any:
        """What the loss is told of the true context of one step, in arrays. Nothing, by default."""
        return None

    def encode(self, params: Params, data: Trajectories) -> Any:
        """States at the steps of episodes, [H, B, ...], exactly as when acting."""

        def step(state: Any, newest: tuple[Array, Array, Array]) -> tuple[Any, Any]:
            state = self.update(params, state, *newest)
            return state, state

        return jax.lax.scan(step, self.initial(data.reward.shape[1:]), evidence(data))[1]

    def decode_reward(
        self, params: Params, summary: Any, key: Array, observation: Array, action: Array, following: Array
    ) -> Array:
        """Expected reward of k steps under one belief, [k, O], [k, ...], [k, O] -> [k]; where it `decodes`."""
        raise NotImplementedError  # of a belief that does not decode rewards

    def loss(self, params: Params, data: Trajectories, key: Array, hyper: VAEConfig) -> tuple[Array, dict[str, Array]]:
        """Scalar loss on episodes and its named terms; where `learns`."""
        raise NotImplementedError  # of a belief that does not learn by itself


def evidence(data: Trajectories) -> tuple[Array, Array, Array]:
    """What a belief is given at each step of episodes: s_t, a_{t-1}, r_{t-1}, [H, B, ...]; zeros before the first."""

    def before(x: Array) -> Array:
        return jnp.concatenate([jnp.zeros_like(x[:1]), x[:-1]])

    return data.observation[:-1], before(data.action), before(data.reward)
