"""Meta-reinforcement learning on a policy: a meta-update is a rollout, the ELBO of the belief, and PPO."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct

from dynamite_envs.dlcmdp import DLCMDP
from dynamite_jax.agents import running_statistics
from dynamite_jax.agents.agent import Agent
from dynamite_jax.algorithms import belief_learning, ppo
from dynamite_jax.algorithms.algorithm import Metrics
from dynamite_jax.algorithms.faults import Faults, left_out
from dynamite_jax.algorithms.optimisation import chosen_episodes, optimiser, remaining
from dynamite_jax.config import Config, PPOConfig, VAEConfig
from dynamite_jax.data import sharing
from dynamite_jax.data.rollout import play
from dynamite_jax.data.types import AgentParams, Array, Params, Rollout, Trajectories

NOISE = 3.0  # deviation of actions from which on most lie outside of [-1, 1], whatever their mean

Hyper = tuple[VAEConfig, PPOConfig]


class TrainState(struct.PyTreeNode):
    """Everything that training needs to go on bit for bit; nothing else survives a meta-update.

    Attributes:
        belief_params: belief model that acts.
        belief_learner, belief_optimiser: belief model that learns by its own loss, and its Adam state; `belief_params`
            is a running average of it. None where there is no such loss.
        policy_params, policy_optimiser: actor-critic and its Adam state.
        normaliser: running statistics of policy features, observations, rewards and returns.
        environment: E environments at the start of the next episode.
        buffer: past trajectories for the belief model, None unless `vae.buffer_episodes` is set.
        key: random stream of this seed.
        meta_updates: meta-updates done.
        faults: meta-updates in which something was not finite.
    """

    belief_params: Params
    belief_learner: Params
    belief_optimiser: Any
    policy_params: Params
    policy_optimiser: Any
    normaliser: Any
    environment: Any
    buffer: Trajectories | None
    key: Array
    meta_updates: Array
    faults: Faults

    @property
    def agent_params(self) -> AgentParams:
        """The part that acts."""
        return AgentParams(self.belief_params, self.policy_params, self.normaliser)


def discount(progress: Array, hyper: PPOConfig) -> Array:
    """The discount: from `gamma_start` it rises linearly to `gamma` over the first fraction `gamma_rise` of training.

    Early on a short horizon is learnt from soon; what it leaves unearned is learnt as the horizon grows
    (François-Lavet et al., 2015).
    """
    risen = jnp.where(progress < hyper.gamma_rise, progress / jnp.maximum(hyper.gamma_rise, 1e-8), 1.0)
    return hyper.gamma_start + risen * (hyper.gamma - hyper.gamma_start)


@dataclass(frozen=True)
class MetaPPO:
    """A belief that learns by its own loss, and a policy on top of it that learns by PPO.

    Attributes:
        config: the run; sizes are read from it, numbers from `hyper`.
        agent: who learns.
    """

    config: Config
    agent: Agent

    @property
    def end_to_end(self) -> bool:
        """Whether the loss of the policy trains the belief: the only loss that does, or one of two."""
        return self.agent.belief.end_to_end or (self.agent.belief.learns and self.config.ppo.through_encoder)

    @property
    def hyper(self) -> Hyper:
        """Traced hyperparameters of the belief and of PPO."""
        return jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), (self.config.vae, self.config.ppo))

    def init(self, env: DLCMDP, seed_id: Array) -> TrainState:
        """State of one agent before its first meta-update.

        Args:
            env: the environment.
            seed_id: global number of the agent, []; together with `config.seed` it fixes every random stream.
        """
        config, agent = self.config, self.agent
        key = jax.random.fold_in(jax.random.key(config.seed), seed_id)
        key, belief_key, policy_key, env_key = jax.random.split(key, 4)
        belief_params = agent.belief.init(belief_key)
        environment = jax.vmap(env.reset)(jax.random.split(env_key, config.num_envs))
        features = agent.features(environment.obs, agent.belief.initial((config.num_envs,)))
        policy_params = agent.network.init(policy_key, features[:1])
        adam = optimiser(0.0, 1.0)
        return TrainState(
            belief_params=belief_params,
            belief_learner=jax.tree.map(jnp.copy, belief_params) if agent.belief.learns else None,
            belief_optimiser=adam.init(belief_params) if agent.belief.learns else None,
            policy_params=policy_params,
            policy_optimiser=adam.init(self._trained_by_policy(policy_params, belief_params)),
            normaliser=running_statistics.init(features.shape[-1], env.observation_size),
            environment=environment,
            buffer=self._empty_buffer(env),
            key=key,
            meta_updates=jnp.zeros((), jnp.int32),
            faults=Faults.none(),
        )

    def agent_params(self, state: TrainState) -> AgentParams:
        """Parameters and statistics of the agent."""
        return state.agent_params

    def update(self, env: DLCMDP, hyper: Hyper, state: TrainState) -> tuple[TrainState, Metrics]:
        """Play one episode in every environment, improve the belief, improve the policy, reset.

        Args:
            env: the environment.
            hyper: traced hyperparameters.
            state: one agent's state.

        Returns:
            The next state, and scalar metrics. Where something was not finite and such meta-updates are left out, all
            that learns is as it was, and the metrics are nan but `left_out`, which is 1.
        """
        before, (vae, ppo_hyper) = state, hyper
        key, play_key, belief_key, policy_key, reset_key = jax.random.split(state.key, 5)
        rollout, _, _ = play(self.agent, env, state.agent_params, state.environment, key=play_key)
        ppo_hyper = ppo_hyper.replace(gamma=discount(self.progress(env, state), ppo_hyper))
        # All that moves the inputs of policy and critic, and the critic's unit, moves before these learn.
        state = self._seen(state, rollout, observation=rollout.observation[:-1], reward=rollout.reward)
        belief_losses: Metrics = {}
        if self.agent.belief.learns:
            state, belief_losses = self.update_belief(env, rollout, hyper=vae, state=state, key=belief_key)
        rollout = self.encoded_again(rollout, state)
        state = self._seen(state, rollout, features=rollout.features[:-1])
        state, samples = self.policy_samples(rollout, ppo_hyper, state)
        state, policy_losses = self.update_policy(env, rollout, samples, hyper=ppo_hyper, state=state, key=policy_key)
        metrics = {"return": rollout.reward.sum(0).mean(), "sessions": rollout.session.max(0).mean() + 1.0}
        metrics |= {f"vae/{name}": value for name, value in belief_losses.items()}
        metrics |= {f"ppo/{name}": value for name, value in policy_losses.items()}
        state = state.replace(normaliser=running_statistics.counted(state.normaliser, rollout.valid))
        learnt = (state.belief_params, state.belief_learner, state.belief_optimiser)
        acting = (state.policy_params, state.policy_optimiser, state.normaliser)
        quantities = (rollout.observation, rollout.reward, belief_losses, learnt, policy_losses, acting)
        finite, faults = state.faults.after(state.meta_updates, quantities)
        if self.config.not_finite == "skip":
            state, metrics = left_out(finite, before, state, metrics)
        reset = sharing.over_environments(lambda env, key: env.reset(key), env)
        return (
            state.replace(
                environment=reset(jax.random.split(reset_key, self.config.num_envs)),
                key=key,
                meta_updates=state.meta_updates + 1,
                faults=faults,
            ),
            metrics,
        )

    def progress(self, env: DLCMDP, state: TrainState) -> Array:
        """Fraction of training that is done."""
        return state.meta_updates / self.config.meta_updates(env.horizon)

    def update_belief(
        self, env: DLCMDP, rollout: Rollout, hyper: VAEConfig, state: TrainState, key: Array
    ) -> tuple[TrainState, Metrics]:
        """Maximise the ELBO on the trajectories of the rollout, and of the buffer where there is one."""
        fresh = rollout.trajectories
        data, buffer = fresh, state.buffer
        if hyper.buffer_episodes:
            # Newest first; what falls off the end is the oldest.
            buffer = jax.tree.map(
                lambda new, old: jnp.concatenate([new, old], axis=1)[:, : hyper.buffer_episodes],
                fresh,
                state.buffer,
            )
            data = buffer
        data = sharing.whole(self.agent.evidence(state.normaliser, data))
        choose_key, _ = jax.random.split(key)
        batch = fresh.reward.shape[1]
        # The buffer fills from the front, and the first step of an episode is always valid.
        stored = data.valid[0].sum()
        count = hyper.trajectories or batch
        lr = hyper.lr * remaining(self.progress(env, state), hyper.anneal)

        def draw(key: Array) -> Array:
            if hyper.buffer_episodes:
                return jax.random.randint(key, (count,), 0, stored)
            return jax.random.permutation(key, batch)[:count]

        learner = belief_learning.Learner(state.belief_params, state.belief_learner, state.belief_optimiser)
        learner, terms = belief_learning.improved(
            learner, self.agent.belief, data, draw=draw, lr=lr, hyper=hyper, key=choose_key
        )
        state = state.replace(
            belief_params=learner.acting, belief_learner=learner.params, belief_optimiser=learner.adam, buffer=buffer
        )
        return state, terms

    def encoded_again(self, rollout: Rollout, state: TrainState) -> Rollout:
        """The rollout with the features that the agent as it is now would have had."""
        features = self.agent.encode(state.agent_params, rollout.trajectories)
        return rollout.replace(features=jnp.concatenate([features, rollout.features[-1:]])).cleared()

    def policy_samples(self, rollout: Rollout, hyper: PPOConfig, state: TrainState) -> tuple[TrainState, ppo.Samples]:
        """The state with the statistics of the rollout's returns, and what policy and critic learn from, [H, E, ...].

        Values of the rollout are in the unit that the critic had when it gave them, its targets in that which it has
        from now on.
        """
        features = self.agent.normalise(state.normaliser, "features", rollout.features[:-1])
        mean, deviation = self._critic_unit(hyper, state)
        value = mean + deviation * rollout.value
        samples = ppo.samples(rollout, features, value, gamma=hyper.gamma, lambda_=hyper.gae_lambda)
        state = self._seen(state, rollout, returns=samples.target)
        mean, deviation = self._critic_unit(hyper, state)
        return state, samples.replace(target=(samples.target - mean) / deviation)

    def _critic_unit(self, hyper: PPOConfig, state: TrainState) -> tuple[Array | float, Array | float]:
        """The return that the critic calls 0, and the difference of returns that it calls 1."""
        if not hyper.normalise_returns:
            return 0.0, 1.0
        mean, deviation = running_statistics.moments(state.normaliser, "returns")
        # While rewards are rare returns hardly vary: by their deviation alone one would be a target of thousands.
        return mean, jnp.maximum(deviation, hyper.min_return_deviation)

    def update_policy(
        self,
        env: DLCMDP,
        rollout: Rollout,
        data: ppo.Samples,
        hyper: PPOConfig,
        state: TrainState,
        key: Array,
    ) -> tuple[TrainState, Metrics]:
        """PPO on the rollout. Beliefs are fixed inputs, as they are in `data`, unless this loss is what trains them."""
        agent, episodes = self.agent, rollout.trajectories
        if hyper.shuffle == "steps":  # each an episode of its own to what follows
            data = jax.tree.map(lambda x: x.reshape(1, -1, *x.shape[2:]), data)
        data, episodes = sharing.whole((data, episodes if self.end_to_end else None))
        trained = self.progress(env, state)
        factor = remaining(trained, hyper.anneal)
        delayed = agent.belief.learns & (trained < hyper.delay)
        hyper = hyper.replace(lr=jnp.where(delayed, 0.0, hyper.lr * factor), entropy=hyper.entropy * factor)
        optimise = optimiser(hyper.lr, hyper.max_grad_norm)

        def loss(
            params: tuple[Params, Params], batch: ppo.Samples, episodes: Trajectories | None
        ) -> tuple[Array, Metrics]:
            policy_params, belief_params = params
            features = batch.features
            if episodes is not None:
                features = agent.encode(state.agent_params.replace(belief_params=belief_params), episodes)
                features = agent.normalise(state.normaliser, "features", features)
            flat = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), batch.replace(features=features))
            flat = sharing.split(flat, axis=0)
            policy, value = agent.policy(policy_params, flat.features)
            return ppo.loss(policy, value, flat, space=env.action_space, hyper=hyper)

        def minibatch(carry: tuple, chosen: Array) -> tuple[tuple, Metrics]:
            params, adam = carry
            batch, encoded = chosen_episodes((data, episodes), chosen)
            gradient, terms = jax.grad(loss, has_aux=True)(params, batch, encoded)
            change, adam = optimise.update(gradient, adam)
            return (optax.apply_updates(params, change), adam), terms

        def epoch(carry: tuple, key: Array) -> tuple[tuple, Metrics]:
            order = jax.random.permutation(key, data.advantage.shape[1])
            return jax.lax.scan(minibatch, carry, order.reshape(hyper.minibatches, -1))

        carry = (self._trained_by_policy(state.policy_params, state.belief_params), state.policy_optimiser)
        (params, adam), terms = jax.lax.scan(epoch, carry, jax.random.split(key, hyper.epochs))
        state = state.replace(policy_params=params[0], policy_optimiser=adam)
        if self.end_to_end:
            state = state.replace(belief_params=params[1])
            if agent.belief.learns:
                state = state.replace(belief_learner=params[1])
        return state, jax.tree.map(jnp.mean, terms)

    def _seen(self, state: TrainState, rollout: Rollout, **quantities: Array) -> TrainState:
        """The state with statistics that hold some quantities of the rollout's steps, [H, E, ...]."""
        return state.replace(normaliser=running_statistics.merge(state.normaliser, rollout.valid, **quantities))

    def measure(self, env: DLCMDP, state: TrainState) -> Metrics:
        """Nothing more: returns are those of the rollouts."""
        return {}

    def warnings(self, metrics: Mapping[str, Sequence[float]]) -> list[str]:
        """What a user should know of the metrics of a chunk, each of them one number a seed: a line each.

        Nothing in a loss shows that a policy is noise: an entropy weight that is too high makes it so at finite losses.
        """
        deviations = metrics.get("ppo/action_deviation", [])
        return [
            f"actions of seed {seed} have a mean deviation of {deviation:.3g} in a range of -1 to 1: its policy is "
            "noise; a lower ppo.entropy or network.max_action_deviation keeps it from that"
            for seed, deviation in enumerate(deviations)
            if deviation >= NOISE
        ]

    def counts(self, env: DLCMDP) -> dict[str, int]:
        """Steps of the optimisers in a meta-update, and environment steps that the encoder learns from in it."""
        vae, ppo_config, episodes = self.config.vae, self.config.ppo, self.config.num_envs
        policy_updates = ppo_config.epochs * ppo_config.minibatches
        updates = seen = 0
        if self.agent.belief.learns:
            updates, seen = vae.epochs * vae.minibatches, vae.epochs * (vae.trajectories or episodes)
        if self.end_to_end:
            updates, seen = updates + policy_updates, seen + ppo_config.epochs * episodes
        return {"encoder_updates": updates, "encoder_steps": seen * env.horizon, "policy_updates": policy_updates}

    def _trained_by_policy(self, policy_params: Params, belief_params: Params) -> tuple[Params, Params]:
        """What the loss of the policy moves: actor and critic, and a belief that is trained end to end."""
        return policy_params, belief_params if self.end_to_end else {}

    def _empty_buffer(self, env: DLCMDP) -> Trajectories | None:
        """Room for `vae.buffer_episodes` episodes, [H(+1), N, ...]; None where none are kept."""
        n, horizon = self.config.vae.buffer_episodes, env.horizon
        if not n:
            return None
        label = jax.eval_shape(lambda key: self.agent.belief.label(env, env.init_context(key)), jax.random.key(0))
        return Trajectories(
            observation=jnp.zeros((horizon + 1, n, env.observation_size)),
            action=env.action_space.zeros((horizon, n)),
            reward=jnp.zeros((horizon, n)),
            session=jnp.zeros((horizon, n), jnp.int32),
            valid=jnp.zeros((horizon, n), bool),
            context=jax.tree.map(lambda x: jnp.zeros((horizon, n, *x.shape), x.dtype), label),
        )
