"""An agent, and one episode of it in many environments: one scan that carries environment and belief."""

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from dynamite_envs.dlcmdp import DLCMDP, State
from dynamite_envs.spaces import Discrete
from dynamite_jax.agents import running_statistics
from dynamite_jax.agents.actor_critic import ActorCritic
from dynamite_jax.agents.distributions import policy_distribution
from dynamite_jax.beliefs.belief import Belief
from dynamite_jax.config import Config
from dynamite_jax.data.types import AgentParams, Array, Params, Rollout, Trajectories
from dynamite_jax.methods import METHODS


@dataclass(frozen=True)
class Agent:
    """What acts: a belief over normalised evidence, and an actor-critic on normalised (observation, belief).

    Attributes:
        belief: the method's belief; see `methods`. It never sees an observation or a reward in other units.
        network: actor-critic.
        clip: bound of what is normalised, in deviations.
    """

    belief: Belief
    network: ActorCritic
    clip: float

    @classmethod
    def build(cls, config: Config, env: DLCMDP) -> "Agent":
        """The agent that a config asks for in an environment."""
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
        return cls(METHODS[config.method].build(config, env), actor_critic, network.feature_clip)

    def features(self, environment: State, belief: Any) -> Array:
        """Policy inputs before normalisation, [E, F]."""
        return jnp.concatenate([environment.obs, self.belief.features(belief)], axis=-1)

    def policy(self, params: Params, features: Array) -> tuple[Array, Array]:
        """Policy parameters [..., P] and value [...] at normalised features."""
        outputs: Any = self.network.apply(params, features)
        return outputs

    def normalise(self, normaliser: Any, name: str, x: Array) -> Array:
        """`features`, `observation` or `reward` in deviations from its running mean, clipped."""
        return running_statistics.normalise(normaliser, name, x, self.clip)

    def evidence(self, normaliser: Any, data: Trajectories) -> Trajectories:
        """Trajectories as the belief sees them, observations and rewards normalised."""
        return data.replace(
            observation=self.normalise(normaliser, "observation", data.observation),
            reward=self.normalise(normaliser, "reward", data.reward),
        )

    def expected_reward(
        self, acting: AgentParams, shown: Any, key: Array, observation: Array, action: Array, following: Array
    ) -> Array:
        """Reward that the belief expects of k steps, in units: [k, O], [k, ...], [k, O] -> [k]."""
        observation, following = (self.normalise(acting.normaliser, "observation", x) for x in (observation, following))
        reward = self.belief.decode_reward(acting.belief_params, shown, key, observation, action, following)
        return running_statistics.denormalise(acting.normaliser, "reward", reward)


def play(
    agent: Agent,
    env: DLCMDP,
    acting: AgentParams,
    environment: State,
    belief: Any,
    key: Array,
    deterministic: bool = False,
) -> tuple[Rollout, State, Any]:
    """Play one episode. The agent acts by its own predicted boundaries; labels are only recorded.

    Args:
        agent: who acts.
        env: the environment, one of E alike.
        acting: parameters and statistics of the agent.
        environment: E environments just reset.
        belief: E beliefs before the first observation.
        key: stream of the actions.
        deterministic: take the mode of the policy instead of a sample.

    Returns:
        The rollout, the environments at s_0 .. s_H, and what beliefs show there, time-major.
    """
    space = env.action_space
    batch = environment.obs.shape[:1]
    step_env = jax.vmap(env.step)

    normalise = partial(agent.normalise, acting.normaliser)

    def look(environment: State, belief: Any, action: Array, reward: Array) -> tuple[Any, Array, tuple]:
        """Take in the observation; the belief after it, the policy, and what is recorded."""
        observation = normalise("observation", environment.obs)
        belief = agent.belief.update(acting.belief_params, belief, observation, action, reward)
        features = agent.features(environment, belief)
        policy, value = agent.policy(acting.policy_params, normalise("features", features))
        seen = (environment, features, value, agent.belief.boundary(belief), agent.belief.shown(belief))
        return belief, policy, seen

    def step(carry: tuple[State, Any, Array, Array], key: Array) -> tuple[tuple[State, Any, Array, Array], Any]:
        environment, belief, action, reward = carry
        belief, policy, seen = look(environment, belief, action, reward)
        distribution = policy_distribution(policy, space)
        action = distribution.mode() if deterministic else distribution.sample(seed=key)
        after = step_env(environment, action)
        done = (action, distribution.log_prob(action), after.reward, after.terminated)
        return (after, belief, action, normalise("reward", after.reward)), (seen, done)

    keys = jax.random.split(key, env.horizon)
    start = (environment, belief, space.zeros(batch), jnp.zeros(batch))
    end, (seen, done) = jax.lax.scan(step, start, keys)
    last = look(*end)[2]
    seen = jax.tree.map(lambda body, end: jnp.concatenate([body, end[None]]), seen, last)
    environments, features, value, boundary, beliefs = seen
    action, log_prob, reward, terminated = done
    rollout = Rollout(
        observation=environments.obs,
        action=action,
        reward=reward,
        terminated=terminated,
        session=environments.session[:-1],
        features=features,
        log_prob=log_prob,
        value=value,
        boundary=boundary[:-1],
        valid=~environments.terminated[:-1],
    )
    return rollout.cleared(), environments, beliefs
