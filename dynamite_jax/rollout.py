"""An agent, and one episode of it in many environments: one scan that carries environment and belief."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from dynamite_jax import normaliser as statistics
from dynamite_jax import ppo
from dynamite_jax.belief import Belief
from dynamite_jax.config import Config
from dynamite_jax.methods import METHODS
from dynamite_jax.networks import ActorCritic
from dynamite_jax.types import Acting, Array, Params, Rollout
from envs.dlcmdp import DLCMDP, Discrete, State


@dataclass(frozen=True)
class Agent:
    """What acts: a belief and an actor-critic on normalised (observation, belief).

    Attributes:
        belief: the method's belief; see `methods`.
        network: actor-critic.
        feature_clip: bound of a normalised feature.
    """

    belief: Belief
    network: ActorCritic
    feature_clip: float

    @classmethod
    def build(cls, config: Config, env: DLCMDP) -> "Agent":
        """The agent that a config asks for in an environment."""
        space, network = env.action_space, config.network
        actor_critic = ActorCritic(
            network.policy_hidden,
            network.value_hidden,
            space.size,
            not isinstance(space, Discrete),
            network.activation,
        )
        return cls(METHODS[config.method].build(config, env), actor_critic, network.feature_clip)

    def features(self, environment: State, belief: Any) -> Array:
        """Policy inputs before normalisation, [E, F]."""
        return jnp.concatenate([environment.obs, self.belief.features(belief, environment)], axis=-1)

    def policy(self, params: Params, features: Array) -> tuple[Array, Array]:
        """Policy parameters [..., P] and value [...] at normalised features."""
        outputs: Any = self.network.apply(params, features)
        return outputs

    def normalise(self, features: Array, normaliser: Any) -> Array:
        """Policy inputs in deviations from their running mean, clipped, [..., F]."""
        return statistics.normalise(normaliser, features, self.feature_clip)


def play(
    agent: Agent,
    env: DLCMDP,
    acting: Acting,
    environment: State,
    belief: Any,
    key: Array,
    deterministic: bool = False,
) -> tuple[Rollout, State, Any]:
    """Play one episode. The agent acts by its own predicted boundaries; labels are only recorded.

    Args:
        agent: who acts.
        env: the environment, one of E alike.
        acting: parameters and feature statistics of the agent.
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

    def look(environment: State, belief: Any, action: Array) -> tuple[Any, Array, tuple]:
        """Take in the observation; the belief after it, the policy, and what is recorded."""
        belief = agent.belief.update(acting.belief_params, belief, environment.obs, action, environment.reward)
        features = agent.features(environment, belief)
        policy, value = agent.policy(acting.policy_params, agent.normalise(features, acting.normaliser))
        seen = (environment, features, value, agent.belief.boundary(belief), agent.belief.shown(belief))
        return belief, policy, seen

    def step(carry: tuple[State, Any, Array], key: Array) -> tuple[tuple[State, Any, Array], Any]:
        environment, belief, action = carry
        belief, policy, seen = look(environment, belief, action)
        distribution = ppo.policy_distribution(policy, space)
        action = distribution.mode() if deterministic else distribution.sample(seed=key)
        after = step_env(environment, action)
        done = (action, distribution.log_prob(action), after.reward, after.terminated)
        return (after, belief, action), (seen, done)

    keys = jax.random.split(key, env.horizon)
    (environment, belief, action), (seen, done) = jax.lax.scan(step, (environment, belief, space.zeros(batch)), keys)
    last = look(environment, belief, action)[2]
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
    )
    return rollout, environments, beliefs
