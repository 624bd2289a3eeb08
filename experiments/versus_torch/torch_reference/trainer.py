"""The training loop: play an episode in every environment, update the belief, update the policy."""

import copy
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch  # pyright: ignore[reportMissingImports]
from torch import Tensor  # pyright: ignore[reportMissingImports]

from experiments.versus_torch.torch_reference import elbo, ppo
from experiments.versus_torch.torch_reference.elbo import Episodes
from experiments.versus_torch.torch_reference.networks import ActorCritic, BeliefModel, BeliefState

DEVIATION_RANGE = (1e-6, 1e6)


class Moments:
    """Running mean and deviation of rows [N, F] or numbers [N]; 0 and 1 before the first."""

    def __init__(self, *shape: int):
        self.count = 0.0
        self.mean, self.squares, self.deviation = torch.zeros(shape), torch.zeros(shape), torch.ones(shape)

    def update(self, x: Tensor) -> None:
        """Add a batch (Chan et al., 1979)."""
        x = x.reshape(-1, *self.mean.shape)
        self.count += len(x)
        before = x - self.mean
        self.mean = self.mean + before.sum(0) / self.count
        self.squares = self.squares + (before * (x - self.mean)).sum(0)
        self.deviation = (self.squares.clamp(min=0.0) / self.count).sqrt().clamp(*DEVIATION_RANGE)

    def normalise(self, x: Tensor, clip: float) -> Tensor:
        """Deviations from the mean, clipped to `clip` of them."""
        return ((x - self.mean) / self.deviation).clamp(-clip, clip)


class Buffer:
    """The last `capacity` episodes, written in place; the newest overwrite the oldest."""

    def __init__(self, capacity: int):
        self.capacity, self.held, self.next = capacity, 0, 0
        self.arrays: Episodes | None = None

    def add(self, fresh: Episodes) -> None:
        """Add episodes, [H(+1), E, ...], at most `capacity`."""
        if self.arrays is None:
            self.arrays = Episodes(*(x.new_empty(x.shape[0], self.capacity, *x.shape[2:]) for x in fresh))
        count = fresh.reward.shape[1]
        where = (self.next + torch.arange(count)) % self.capacity
        for array, x in zip(self.arrays, fresh, strict=True):
            array[:, where] = x
        self.next = (self.next + count) % self.capacity
        self.held = min(self.capacity, self.held + count)

    def sample(self, count: int) -> Episodes:
        """Episodes drawn with replacement."""
        assert self.arrays is not None
        return self.arrays.of(torch.randint(self.held, (count,)))


class Rollout(SimpleNamespace):
    """One episode of E environments, as JAX's `Rollout`; `encoded` are actions as networks see them."""

    observation: Tensor
    action: Tensor
    encoded: Tensor
    reward: Tensor
    session: Tensor
    features: Tensor
    log_prob: Tensor
    value: Tensor


class Trainer:
    """One agent and its environments.

    Attributes:
        config: sizes and numbers, with the names of `dynamite_jax.config.Config`.
        env: vector environment.
        meta_updates: number of meta-updates of the run.
        completed_updates: number of those completed.
        model: networks of the belief, as they learn.
        acting: the running average of their weights, which acts.
        policy: actor and critic.
        statistics: of features, observations, rewards and returns.
    """

    def __init__(self, config: Any, env: Any, meta_updates: int):
        """Build the agent.

        Args:
            config: the run.
            env: its environments, `config.num_envs` of them.
            meta_updates: number of meta-updates of the run, over which rates are annealed.
        """
        self.config, self.env = config, env
        self.meta_updates, self.completed_updates = meta_updates, 0
        space = env.single_action_space
        self.continuous = len(space.shape) > 0
        self.actions = space.shape[0] if self.continuous else int(space.n)
        observation = env.single_observation_space.shape[0]
        self.model = BeliefModel(config, observation, self.actions, decode_state=env.decode_state)
        self.acting = copy.deepcopy(self.model)
        features = observation + 2 * config.network.latent
        self.policy = ActorCritic(config.network, features, self.actions, continuous=self.continuous)
        self.statistics = {
            "features": Moments(features),
            "observation": Moments(observation),
            "reward": Moments(),
            "returns": Moments(),
        }
        self.vae_optimiser = torch.optim.Adam(self.model.parameters(), lr=config.vae.lr, fused=True)
        self.ppo_optimiser = torch.optim.Adam(self.policy.parameters(), lr=config.ppo.lr, fused=True)
        self.start = torch.zeros(self.actions) if self.continuous else self.encode(torch.zeros((), dtype=torch.long))
        self.buffer = Buffer(config.vae.buffer_episodes) if config.vae.buffer_episodes else None

    def encode(self, action: Tensor) -> Tensor:
        """Network input for actions: what the environment executes, or one-hot."""
        return action.clamp(-1.0, 1.0) if self.continuous else torch.nn.functional.one_hot(action, self.actions).float()

    def normalise(self, name: str, x: Tensor) -> Tensor:
        """In deviations from the running mean."""
        return self.statistics[name].normalise(x, self.config.network.feature_clip)

    @torch.no_grad()
    def play(self) -> Rollout:
        """One episode in every environment."""
        batch, horizon = self.env.num_envs, self.env.horizon
        observation, _ = self.env.reset()
        observation = torch.from_numpy(observation).clone()
        state = self.acting.encoder.initial(batch)
        encoded, reward = self.start.expand(batch, -1), torch.zeros(batch)
        states: dict[str, list[Tensor]] = {name: [] for name in ("observation", "features", "value")}
        steps: dict[str, list[Tensor]] = {name: [] for name in ("action", "encoded", "log_prob", "reward", "session")}
        for t in range(horizon + 1):
            evidence = torch.cat([self.normalise("observation", observation), encoded, reward[:, None]], dim=1)
            state, policy, features, value = self._observe(state, observation, evidence)
            for name, x in zip(states, (observation, features, value), strict=True):
                states[name].append(x)
            if t == horizon:
                break
            action, log_prob = ppo.sample(policy, self.continuous)
            observation, raw_reward, _, _, info = self.env.step(action.numpy())
            observation, raw_reward = torch.from_numpy(observation).clone(), torch.from_numpy(raw_reward).clone()
            session = torch.from_numpy(info["session"]).clone()
            encoded, reward = self.encode(action), self.normalise("reward", raw_reward)
            for name, x in zip(steps, (action, encoded, log_prob, raw_reward, session), strict=True):
                steps[name].append(x)
        return Rollout(**{name: torch.stack(rows) for name, rows in (states | steps).items()})

    def _observe(
        self, state: BeliefState, observation: Tensor, evidence: Tensor
    ) -> tuple[BeliefState, Tensor, Tensor, Tensor]:
        """The belief after an observation; policy, features and value there."""
        state = self.acting.encoder.step(state, self.acting.encoder.embed(evidence))
        features = torch.cat([observation, state.belief], dim=1)
        policy, value = self.policy(self.normalise("features", features))
        return state, policy, features, value

    def update_belief(self, rollout: Rollout) -> None:
        """Maximise the ELBO on the episodes, or on those of the buffer."""
        vae = self.config.vae
        self._set_rate(self.vae_optimiser, vae.lr * self._remaining(vae.anneal))
        fresh = self._episodes(rollout)
        if self.buffer:
            self.buffer.add(fresh)
        else:
            fresh = self._evidence(fresh)
        for _ in range(vae.epochs):
            for batch in self._belief_batches(fresh):
                draws = elbo.draw(batch, self.config.network.latent, vae)
                loss, _ = elbo.loss(self.model, batch, start=self.start, draws=draws, vae=vae)
                self._descend(self.vae_optimiser, self.model, loss=loss, max_norm=vae.max_grad_norm)
        with torch.no_grad():
            for acting, newest in zip(self.acting.parameters(), self.model.parameters(), strict=True):
                acting.lerp_(newest, vae.average_rate)

    def _belief_batches(self, fresh: Episodes) -> Iterator[Episodes]:
        """Minibatches of a pass: episodes of the buffer with replacement, or fresh ones, each once."""
        vae = self.config.vae
        count = vae.trajectories or self.env.num_envs
        if self.buffer:
            for _ in range(vae.minibatches):
                yield self._evidence(self.buffer.sample(count // vae.minibatches))
        else:
            for minibatch in torch.randperm(self.env.num_envs)[:count].reshape(vae.minibatches, -1):
                yield fresh.of(minibatch)

    def _episodes(self, rollout: Rollout) -> Episodes:
        return Episodes(
            observation=rollout.observation, action=rollout.encoded, reward=rollout.reward, session=rollout.session
        )

    def _evidence(self, episodes: Episodes) -> Episodes:
        observation = self.normalise("observation", episodes.observation)
        return episodes._replace(observation=observation, reward=self.normalise("reward", episodes.reward))

    @torch.no_grad()
    def encoded_again(self, rollout: Rollout) -> Rollout:
        """The rollout with the features that the agent as it is now would have had."""
        episodes = self._evidence(self._episodes(rollout))
        beliefs, _ = self.acting.encoder.encode(elbo.evidence(episodes, self.start))
        features = torch.cat([rollout.observation[:-1], beliefs], dim=2)
        features = torch.cat([features, rollout.features[-1:]])
        return Rollout(**{**vars(rollout), "features": features})

    def samples(self, rollout: Rollout) -> ppo.Samples:
        """Samples for policy and critic, one row a step; the statistics of returns take in those of the rollout."""
        hyper = self.config.ppo
        mean, deviation = self._critic_unit()
        value = mean + deviation * rollout.value
        terminated = torch.zeros_like(rollout.reward)
        gamma = self._discount()
        advantage = ppo.advantages(rollout.reward, terminated, value, gamma=gamma, lambda_=hyper.gae_lambda)
        returns = value[:-1] + advantage
        self.statistics["returns"].update(returns)
        mean, deviation = self._critic_unit()
        features = self.normalise("features", rollout.features[:-1])
        target = (returns - mean) / deviation
        columns = (features, rollout.action, rollout.log_prob, rollout.value[:-1], advantage, target)
        return ppo.Samples(*(x.flatten(0, 1) for x in columns))

    def _critic_unit(self) -> tuple[Tensor | float, Tensor | float]:
        """The return that the critic calls 0, and the difference of returns that it calls 1."""
        hyper, returns = self.config.ppo, self.statistics["returns"]
        if not hyper.normalise_returns:
            return 0.0, 1.0
        return returns.mean, returns.deviation.clamp(min=hyper.min_return_deviation)

    def update_policy(self, samples: ppo.Samples) -> None:
        """PPO; minibatches are of steps, or of whole episodes."""
        hyper = self.config.ppo
        remaining = self._remaining(hyper.anneal)
        self._set_rate(self.ppo_optimiser, 0.0 if self._progress() < hyper.delay else hyper.lr * remaining)
        annealed = SimpleNamespace(**{**vars(hyper), "entropy": hyper.entropy * remaining})
        numbers = torch.arange(len(samples.advantage))
        units = numbers[:, None] if hyper.shuffle == "steps" else numbers.reshape(-1, self.env.num_envs).T
        for _ in range(hyper.epochs):
            for minibatch in units[torch.randperm(len(units))].reshape(hyper.minibatches, -1):
                loss = self._policy_loss(samples.of(minibatch), annealed)
                self._descend(self.ppo_optimiser, self.policy, loss=loss, max_norm=hyper.max_grad_norm)

    def _policy_loss(self, batch: ppo.Samples, hyper: Any) -> Tensor:
        policy, value = self.policy(batch.features)
        return ppo.loss(policy, value, batch, continuous=self.continuous, hyper=hyper)[0]

    def _descend(
        self, optimiser: torch.optim.Optimizer, module: torch.nn.Module, *, loss: Tensor, max_norm: float
    ) -> None:
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(module.parameters(), max_norm, foreach=True)
        optimiser.step()

    def _remaining(self, anneal: float) -> float:
        """Factor of an annealed number, as in `dynamite_jax.algorithms.meta_ppo`."""
        return max(0.0, min(1.0, (1.0 - self._progress()) / max(anneal, 1e-8)))

    def _discount(self) -> float:
        """The discount of this meta-update, as in `dynamite_jax.algorithms.meta_ppo`."""
        hyper, progress = self.config.ppo, self._progress()
        risen = progress / hyper.gamma_rise if progress < hyper.gamma_rise else 1.0
        return hyper.gamma_start + risen * (hyper.gamma - hyper.gamma_start)

    def _progress(self) -> float:
        """Fraction of training that is done."""
        return self.completed_updates / self.meta_updates

    def _set_rate(self, optimiser: torch.optim.Optimizer, rate: float) -> None:
        for group in optimiser.param_groups:
            group["lr"] = rate

    def meta_update(self) -> float:
        """Play, learn; returns the mean return of the episodes. The policy learns on the features it will act on."""
        rollout = self.play()
        self.statistics["observation"].update(rollout.observation[:-1])
        self.statistics["reward"].update(rollout.reward)
        self.update_belief(rollout)
        rollout = self.encoded_again(rollout)
        self.statistics["features"].update(rollout.features[:-1])
        self.update_policy(self.samples(rollout))
        self.completed_updates += 1
        return float(rollout.reward.sum(0).mean())

    def arrays(self) -> dict[str, np.ndarray]:
        """Weights that act, of both networks, and statistics, by dotted names."""
        arrays = {f"belief.{name}": x.numpy() for name, x in self.acting.state_dict().items()}
        arrays |= {f"policy.{name}": x.numpy() for name, x in self.policy.state_dict().items()}
        for name, moments in self.statistics.items():
            arrays |= {f"mean.{name}": moments.mean.numpy(), f"deviation.{name}": moments.deviation.numpy()}
        return arrays
