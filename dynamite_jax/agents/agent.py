"""What acts: a belief, and an actor-critic on what is observed and believed."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from dynamite_envs.dlcmdp import DLCMDP
from dynamite_envs.spaces import Box, Discrete
from dynamite_jax.agents import running_statistics
from dynamite_jax.agents.actor_critic import ActorCritic
from dynamite_jax.agents.distributions import policy_distribution
from dynamite_jax.beliefs.belief import Belief
from dynamite_jax.config import Config
from dynamite_jax.data.types import AgentParams, Array, Params, Trajectories


class AgentState(struct.PyTreeNode):
    """What an agent carries from step to step of E episodes.

    Attributes:
        belief: state of the belief, [E, ...].
        action: the last action, [E, ...].
        started: whether there was one, [E].
    """

    belief: Any
    action: Array
    started: Array


class Insight(struct.PyTreeNode):
    """What an agent makes of an observation before it acts.

    Attributes:
        features: inputs of policy and critic before normalisation, [E, F].
        policy: parameters of the distribution of actions, [E, P].
        value: critic's output, in its unit, [E].
        boundary: whether the newest evidence is taken to come from a new session, [E].
        summary: `Belief.summary`, for `Belief.decode_reward`.
    """

    features: Array
    policy: Array
    value: Array
    boundary: Array
    summary: Any


@dataclass(frozen=True)
class Agent:
    """A belief over normalised evidence, and an actor-critic on normalised (observation, belief).

    Attributes:
        belief: the method's belief; see `methods`. It gets observations and rewards in deviations alone.
        network: actor-critic.
        clip: bound of what is normalised, in deviations.
        space: action space.
    """

    belief: Belief
    network: ActorCritic
    clip: float
    space: Discrete | Box

    @classmethod
    def build(cls, config: Config, env: DLCMDP, belief: Belief) -> "Agent":
        """The agent with a belief that a config asks for in an environment."""
        space, network = env.action_space, config.network
        actor_critic = ActorCritic(
            policy_hidden=network.policy_hidden,
            value_hidden=network.value_hidden,
            actions=space.size,
            continuous=not isinstance(space, Discrete),
            activation=network.activation,
            action_deviation=network.action_deviation,
            deviation_bounds=(network.min_action_deviation, network.max_action_deviation),
        )
        return cls(belief=belief, network=actor_critic, clip=network.feature_clip, space=space)

    def init(self, batch: tuple[int, ...]) -> AgentState:
        """State before the first observation of episodes."""
        return AgentState(self.belief.initial(batch), self.space.zeros(batch), jnp.zeros(batch, bool))

    def observe(
        self, params: AgentParams, state: AgentState, observation: Array, reward: Array
    ) -> tuple[AgentState, Insight]:
        """Take in an observation and the reward that came with it.

        Args:
            params: of the agent.
            state: of the agent, E episodes.
            observation: s_t, [E, O].
            reward: r_{t-1}, [E]; ignored before the first action.

        Returns:
            The state with the belief after it, and the outputs of policy and critic.
        """
        reward = jnp.where(state.started, self.normalise(params.normaliser, "reward", reward), 0.0)
        evidence = (self.normalise(params.normaliser, "observation", observation), state.action, reward)
        belief = self.belief.update(params.belief_params, state.belief, *evidence)
        features = self.features(observation, belief)
        policy, value = self.policy(params.policy_params, self.normalise(params.normaliser, "features", features))
        insight = Insight(
            features=features,
            policy=policy,
            value=value,
            boundary=self.belief.boundary(belief),
            summary=self.belief.summary(belief),
        )
        return state.replace(belief=belief), insight

    def act(
        self, params: AgentParams, state: AgentState, observation: Array, reward: Array, key: Array | None = None
    ) -> tuple[Array, Array, AgentState, Insight]:
        """Take in an observation and act on it.

        Args:
            params: of the agent.
            state: of the agent, E episodes.
            observation: s_t, [E, O].
            reward: r_{t-1}, [E]; ignored before the first action.
            key: of the sample; without one the mode of the policy is taken.

        Returns:
            Action [E, ...], its log-probability [E], the next state, and what led to the action.
        """
        state, insight = self.observe(params, state, observation, reward)
        distribution = policy_distribution(insight.policy, self.space)
        action = distribution.mode() if key is None else distribution.sample(seed=key)
        following = AgentState(state.belief, action, jnp.ones_like(state.started))
        return action, distribution.log_prob(action), following, insight

    def features(self, observation: Array, belief: Any) -> Array:
        """Inputs of policy and critic before normalisation, [..., F]."""
        return jnp.concatenate([observation, self.belief.features(belief)], axis=-1)

    def policy(self, params: Params, features: Array) -> tuple[Array, Array]:
        """Policy parameters [..., P] and value [...] at normalised features."""
        outputs: Any = self.network.apply(params, features)
        return outputs

    def normalise(self, normaliser: Any, name: str, x: Array) -> Array:
        """`features`, `observation` or `reward` in deviations from its running mean, clipped."""
        return running_statistics.normalise(normaliser, name, x, clip=self.clip)

    def evidence(self, normaliser: Any, data: Trajectories) -> Trajectories:
        """Trajectories as the belief gets them, observations and rewards normalised."""
        return data.replace(
            observation=self.normalise(normaliser, "observation", data.observation),
            reward=self.normalise(normaliser, "reward", data.reward),
        )

    def encode(self, params: AgentParams, data: Trajectories) -> Array:
        """Inputs of policy and critic before normalisation, had this agent seen these episodes, [H, B, F]."""
        beliefs = self.belief.encode(params.belief_params, self.evidence(params.normaliser, data))
        return jax.vmap(self.features)(data.observation[:-1], beliefs)

    def expected_reward(
        self, params: AgentParams, summary: Any, key: Array, observation: Array, action: Array, following: Array
    ) -> Array:
        """Reward that the belief expects of k steps, in units: [k, O], [k, ...], [k, O] -> [k]."""
        observation, following = (self.normalise(params.normaliser, "observation", x) for x in (observation, following))
        reward = self.belief.decode_reward(
            params.belief_params, summary, key, observation=observation, action=action, following=following
        )
        return running_statistics.denormalise(params.normaliser, "reward", reward)
