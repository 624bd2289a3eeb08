"""Meta-reinforcement learning from recorded episodes: an update draws some, improves the belief, then the policy."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct

from dynamite_envs.dlcmdp import DLCMDP
from dynamite_envs.spaces import Discrete
from dynamite_envs.wrappers import ObserveContext
from dynamite_jax.agents import running_statistics
from dynamite_jax.agents.agent import Agent
from dynamite_jax.agents.critics import Critics
from dynamite_jax.algorithms import belief_learning
from dynamite_jax.algorithms.algorithm import Metrics
from dynamite_jax.algorithms.faults import Faults, left_out
from dynamite_jax.algorithms.learners import LEARNERS, Networks, Transitions, Weights
from dynamite_jax.algorithms.optimisation import chosen_episodes, optimiser, remaining
from dynamite_jax.config import Config, OfflineConfig, VAEConfig
from dynamite_jax.data.rollout import play
from dynamite_jax.data.types import AgentParams, Array, Params, Trajectories
from dynamite_jax.datasets.recording import Episodes, relabelled

jax.tree_util.register_dataclass(OfflineConfig)  # as those of `data.types`

Hyper = tuple[VAEConfig, OfflineConfig]
MIN_UNIT = 1e-3
"""Least unit of the critics, in the unit of rewards."""


class Recorded(struct.PyTreeNode):
    """What is learnt from: episodes that lie on the device, [H(+1), N, ...], and the environment that they are of."""

    env: DLCMDP
    episodes: Episodes


class OfflineState(struct.PyTreeNode):
    """Everything that training needs to go on bit for bit.

    Attributes:
        belief_params: belief model that acts.
        belief_learner, belief_optimiser: belief model that learns, and its Adam state; None where none does.
        policy_params: policy and value.
        critic_params: critics.
        slow_critics: running average of them, which their targets are made of.
        optimiser: Adam state of policy and value, and of the critics.
        normaliser: running statistics of policy features, observations, rewards and returns.
        key: random stream of this seed.
        meta_updates: updates done.
        faults: updates in which something was not finite.
    """

    belief_params: Params
    belief_learner: Params
    belief_optimiser: Any
    policy_params: Params
    critic_params: Params
    slow_critics: Params
    optimiser: Any
    normaliser: Any
    key: Array
    meta_updates: Array
    faults: Faults

    @property
    def agent_params(self) -> AgentParams:
        """The part that acts."""
        return AgentParams(self.belief_params, self.policy_params, self.normaliser)


@dataclass(frozen=True)
class Offline:
    """A belief that learns by its own loss, and a policy on top of it, both from recorded episodes.

    Attributes:
        config: the run; sizes are read from it, numbers from `hyper`.
        agent: who learns.
    """

    config: Config
    agent: Agent

    @property
    def hyper(self) -> Hyper:
        """Traced hyperparameters of the belief and of the learner."""
        return jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), (self.config.vae, self.config.offline))

    @cached_property
    def networks(self) -> Networks:
        """Policy and critics."""
        space, config = self.agent.space, self.config
        actions = space.size if isinstance(space, Discrete) else 0
        critics = Critics(
            number=config.offline.critics,
            hidden=config.network.value_hidden,
            actions=actions,
            activation=config.network.activation,
        )
        return Networks(self.agent, critics)

    def init(self, env: DLCMDP, seed_id: Array) -> OfflineState:
        """State of one agent before its first update.

        Args:
            env: the environment.
            seed_id: global number of the agent, []; together with `config.seed` it fixes every random stream.
        """
        agent = self.agent
        key = jax.random.fold_in(jax.random.key(self.config.seed), seed_id)
        key, belief_key, policy_key, critic_key = jax.random.split(key, 4)
        belief_params = agent.belief.init(belief_key)
        features = agent.features(jnp.zeros((1, env.observation_size)), agent.belief.initial((1,)))
        action = [] if isinstance(agent.space, Discrete) else [agent.space.zeros((1,))]
        critics = self.networks.critics.init(critic_key, features, *action)
        weights: Any = Weights(agent.network.init(policy_key, features), critics)
        learns = agent.belief.learns
        return OfflineState(
            belief_params=belief_params,
            belief_learner=jax.tree.map(jnp.copy, belief_params) if learns else None,
            belief_optimiser=optimiser(0.0, 1.0).init(belief_params) if learns else None,
            policy_params=weights.policy,
            critic_params=critics,
            slow_critics=jax.tree.map(jnp.copy, critics),
            optimiser=_optimiser(0.0, self.config.offline).init(weights),
            normaliser=running_statistics.init(features.shape[-1], env.observation_size),
            key=key,
            meta_updates=jnp.zeros((), jnp.int32),
            faults=Faults.none(),
        )

    def agent_params(self, state: OfflineState) -> AgentParams:
        """Parameters and statistics of the agent."""
        return state.agent_params

    def update(self, world: Recorded, hyper: Hyper, state: OfflineState) -> tuple[OfflineState, Metrics]:
        """Draw episodes, improve the belief on them, then policy and critics on their steps.

        Args:
            world: the recorded episodes.
            hyper: traced hyperparameters.
            state: one agent's state.

        Returns:
            The next state, and scalar metrics. Where something was not finite and such updates are left out, all that
            learns is as it was, and the metrics are nan but `left_out`, which is 1.
        """
        before, (vae, offline), env = state, hyper, world.env
        key, draw_key, relabel_key, belief_key, policy_key = jax.random.split(state.key, 5)
        count = world.episodes.reward.shape[1]
        drawn = jax.random.randint(draw_key, (self.config.num_envs,), 0, count)
        episodes = jax.tree.map(lambda x: x[:, drawn], world.episodes)
        if self.config.offline.relabel:
            episodes = relabelled(env.unwrapped, episodes, relabel_key, offline.relabel)
        episodes = observed(env, episodes)
        data = episodes.trajectories(jax.tree.map(lambda x: x[:-1], self._labels(env, episodes)))
        state = self._seen(state, data.valid, observation=data.observation[:-1], reward=data.reward)
        belief_losses: Metrics = {}
        progress = state.meta_updates / self.config.meta_updates(env.horizon)
        if self.agent.belief.learns:
            state, belief_losses = self._improve_belief(data, vae, state, belief_key, progress)
        features = self.agent.encode(state.agent_params, _with_end(data))
        state = self._seen(state, data.valid, features=features[:-1])
        returns = _to_go(data.reward, episodes.terminated, offline.gamma)
        state = self._seen(state, data.valid, returns=returns)
        transitions = self._transitions(features, episodes, state)
        state, policy_losses = self._improve_policy(transitions, offline, state, policy_key, progress)
        metrics = {f"vae/{name}": value for name, value in belief_losses.items()}
        metrics |= {f"{self.config.offline.learner}/{name}": value for name, value in policy_losses.items()}
        state = state.replace(normaliser=running_statistics.counted(state.normaliser, data.valid))
        learnt = (state.belief_params, state.belief_learner, state.belief_optimiser)
        acting = (state.policy_params, state.critic_params, state.slow_critics, state.optimiser, state.normaliser)
        quantities = (data.observation, data.reward, belief_losses, learnt, policy_losses, acting)
        finite, faults = state.faults.after(state.meta_updates, quantities)
        if self.config.not_finite == "skip":
            state, metrics = left_out(finite, before, state, metrics)
        return state.replace(key=key, meta_updates=state.meta_updates + 1, faults=faults), metrics

    def measure(self, world: Recorded, state: OfflineState) -> Metrics:
        """The `return` of a few episodes in the environment; nothing learns from them."""
        env, key = world.env, jax.random.fold_in(state.key, 0xE7A1)
        reset_key, key = jax.random.split(key)
        start = jax.vmap(env.reset)(jax.random.split(reset_key, self.config.offline.watched_episodes))
        rollout, _, _ = play(self.agent, env, state.agent_params, start, key=key, deterministic=True)
        return {"return": rollout.reward.sum(0).mean(), "sessions": rollout.session.max(0).mean() + 1.0}

    def warnings(self, metrics: Mapping[str, Sequence[float]]) -> list[str]:
        """Critics that run away: their mean is far from any return, which is of size 1 in their unit."""
        return [
            f"critics of seed {seed} have a mean of {q:.3g} in deviations of returns: they have lost the data; a lower "
            "offline.gamma or offline.critic_lr, or a higher offline.bc_weight or offline.cql_weight, keeps them"
            for seed, q in enumerate(metrics.get(f"{self.config.offline.learner}/q", []))
            if abs(q) >= 100.0
        ]

    def counts(self, env: DLCMDP) -> dict[str, int]:
        """Steps of the optimisers in an update, and recorded steps that the encoder learns from in it."""
        vae, offline = self.config.vae, self.config.offline
        updates = seen = 0
        if self.agent.belief.learns:
            updates, seen = vae.epochs * vae.minibatches, vae.epochs * (vae.trajectories or self.config.num_envs)
        policy_updates = offline.epochs * offline.minibatches
        return {"encoder_updates": updates, "encoder_steps": seen * env.horizon, "policy_updates": policy_updates}

    def _improve_belief(
        self, data: Trajectories, vae: VAEConfig, state: OfflineState, key: Array, progress: Array
    ) -> tuple[OfflineState, Metrics]:
        batch = self.config.num_envs

        def draw(key: Array) -> Array:
            return jax.random.permutation(key, batch)[: vae.trajectories or batch]

        learner = belief_learning.Learner(state.belief_params, state.belief_learner, state.belief_optimiser)
        learner, terms = belief_learning.improved(
            learner,
            self.agent.belief,
            self.agent.evidence(state.normaliser, data),
            draw=draw,
            lr=vae.lr * remaining(progress, vae.anneal),
            hyper=vae,
            key=key,
        )
        state = state.replace(
            belief_params=learner.acting, belief_learner=learner.params, belief_optimiser=learner.adam
        )
        return state, terms

    def _transitions(self, features: Array, episodes: Episodes, state: OfflineState) -> Transitions:
        """Steps that policy and critics learn from, [H, E, ...]; s_H is worth its value."""
        features = self.agent.normalise(state.normaliser, "features", features)
        _, unit = running_statistics.moments(state.normaliser, "returns")
        return Transitions(
            features=features[:-1],
            following=features[1:],
            action=episodes.action,
            reward=episodes.reward / jnp.maximum(unit, MIN_UNIT),
            terminated=episodes.terminated,
            weight=episodes.valid.astype(jnp.float32),
        )

    def _improve_policy(
        self, data: Transitions, hyper: OfflineConfig, state: OfflineState, key: Array, progress: Array
    ) -> tuple[OfflineState, Metrics]:
        loss, networks = LEARNERS[hyper.learner], self.networks
        data = jax.tree.map(lambda x: x.reshape(1, -1, *x.shape[2:]), data)  # steps in any order
        optimise = _optimiser(remaining(progress, hyper.anneal), hyper)

        def minibatch(carry: tuple, chosen_and_key: tuple[Array, Array]) -> tuple[tuple, Metrics]:
            weights, slow, adam = carry
            chosen, key = chosen_and_key
            batch = jax.tree.map(lambda x: x[0], chosen_episodes(data, chosen))
            grad = jax.grad(lambda weights: loss(networks, weights, slow, batch, key, hyper), has_aux=True)
            gradient, terms = grad(weights)
            change, adam = optimise.update(gradient, adam)
            weights: Any = optax.apply_updates(weights, change)
            slow = optax.incremental_update(weights.critics, slow, hyper.polyak)
            return (weights, slow, adam), terms

        def epoch(carry: tuple, key: Array) -> tuple[tuple, Metrics]:
            order_key, key = jax.random.split(key)
            order = jax.random.permutation(order_key, data.reward.shape[1]).reshape(hyper.minibatches, -1)
            return jax.lax.scan(minibatch, carry, (order, jax.random.split(key, hyper.minibatches)))

        carry = (Weights(state.policy_params, state.critic_params), state.slow_critics, state.optimiser)
        (weights, slow, adam), terms = jax.lax.scan(epoch, carry, jax.random.split(key, hyper.epochs))
        state = state.replace(
            policy_params=weights.policy, critic_params=weights.critics, slow_critics=slow, optimiser=adam
        )
        return state, jax.tree.map(jnp.mean, terms)

    def _labels(self, env: DLCMDP, episodes: Episodes) -> Any:
        return jax.vmap(jax.vmap(partial(self.agent.belief.label, env)))(episodes.context)

    def _seen(self, state: OfflineState, valid: Array, **quantities: Array) -> OfflineState:
        return state.replace(normaliser=running_statistics.merge(state.normaliser, valid, **quantities))


def observed(env: DLCMDP, episodes: Episodes) -> Episodes:
    """The episodes as a method observes them: with their contexts, if it is told."""
    if not isinstance(env, ObserveContext):
        return episodes
    return episodes.replace(observation=jax.vmap(jax.vmap(env.shown))(episodes.observation, episodes.context))


def _with_end(data: Trajectories) -> Trajectories:
    """Episodes with one step more, so that beliefs are encoded in s_H, too; what that step holds is never looked at."""

    def padded(x: Array) -> Array:
        return jnp.concatenate([x, jnp.zeros_like(x[:1])])

    return data.replace(
        observation=jnp.concatenate([data.observation, data.observation[-1:]]),
        action=padded(data.action),
        reward=padded(data.reward),
        session=padded(data.session),
        valid=padded(data.valid),
        context=None,
    )


def _to_go(reward: Array, terminated: Array, gamma: Array | float) -> Array:
    """Discounted sum of the rewards from each step to the end of its episode, [H, E]."""

    def step(following: Array, now: tuple[Array, Array]) -> tuple[Array, Array]:
        reward, terminated = now
        to_go = reward + gamma * jnp.where(terminated, 0.0, following)
        return to_go, to_go

    return jax.lax.scan(step, jnp.zeros_like(reward[0]), (reward, terminated), reverse=True)[1]


def _optimiser(factor: Array | float, hyper: OfflineConfig) -> optax.GradientTransformation:
    """Adam for policy and value, and for the critics, each at its rate; its state does not depend on the numbers."""
    each: dict[Hashable, optax.GradientTransformation] = {
        "policy": optimiser(hyper.lr * factor, hyper.max_grad_norm),
        "critics": optimiser(hyper.critic_lr, hyper.max_grad_norm),
    }
    labels: Any = Weights("policy", "critics")
    return optax.multi_transform(each, labels)
