"""The latent-variable belief, trained by the session-aware ELBO. DynaMITE and VariBAD are settings of it."""

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from dynamite_envs.dlcmdp import DLCMDP
from dynamite_envs.spaces import Box, Discrete
from dynamite_jax.beliefs import elbo
from dynamite_jax.beliefs.belief import Belief, evidence
from dynamite_jax.config import Config, VAEConfig
from dynamite_jax.data import masked
from dynamite_jax.data.types import Array, BeliefState, Gaussian, Params, Trajectories
from dynamite_jax.networks.belief_model import BeliefModel
from dynamite_jax.networks.gru import Encoder
from dynamite_jax.networks.transformer import TransformerEncoder


@dataclass(frozen=True)
class LatentBelief(Belief):
    """A learnt latent belief: its start, its update, its features for the policy, and its loss.

    Attributes:
        model: the networks.
        space: action space.
        observation_size: O.
    """

    model: BeliefModel
    space: Discrete | Box
    observation_size: int

    learns = True
    decodes = True

    @property
    def detects(self) -> bool:
        """Where there is a boundary head."""
        return self.model.encoder.boundary_head

    @classmethod
    def build(cls, config: Config, env: DLCMDP) -> "LatentBelief":
        """Networks of the sizes that the config and the environment ask for."""
        vae, network = config.vae, config.network
        ends: dict[str, Any] = {
            "latent": network.latent,
            "conditioning": vae.conditioning,
            "boundary_head": vae.boundary_head,
        }
        if network.encoder == "gru":
            encoder = Encoder(hidden=network.hidden, embedding=network.embedding, reset=vae.reset_at_boundary, **ends)
        else:
            encoder = TransformerEncoder(
                horizon=env.horizon, hidden=network.hidden, heads=network.heads, layers=network.layers, **ends
            )
        model = BeliefModel(
            encoder=encoder,
            decoder_hidden=network.decoder_hidden,
            observation_size=env.observation_size,
            decode_state=env.decode_state,
            dynamics_prior=vae.conditioning,
        )
        return cls(model, env.action_space, env.observation_size)

    def init(self, key: Array) -> Params:
        """Parameters of all networks."""
        observation, action = jnp.zeros((1, self.observation_size)), self.space.encode(self.space.zeros((1,)))
        return self.model.init(key, self.model.encoder.initial((1,)), observation, action, jnp.zeros(1))

    def _apply(self, params: Params, *inputs: Any, method: str) -> Any:
        """One of the model's functions."""
        return self.model.apply(params, *inputs, method=method)

    def initial(self, batch: tuple[int, ...]) -> BeliefState:
        """Belief before the first observation."""
        return self.model.encoder.initial(batch)

    def update(
        self, params: Params, state: BeliefState, observation: Array, action: Array, reward: Array
    ) -> BeliefState:
        """Take in (s_t, a_{t-1}, r_{t-1}): [E, O], [E, ...], [E]."""
        encoded = self.space.encode(action)
        return self._apply(params, state, observation, encoded, reward, method="act")

    def features(self, state: BeliefState) -> Array:
        """Inputs of the policy: mean and log-variance, [E, 2 L]."""
        return state.belief.features

    def boundary(self, state: BeliefState) -> Array:
        """Whether the newest evidence is taken to come from a new session, [E]."""
        return state.boundary_logit > 0.0

    def summary(self, state: BeliefState) -> Gaussian:
        """The belief, [E, L]."""
        return state.belief

    def encode(self, params: Params, data: Trajectories) -> BeliefState:
        """Beliefs at the steps of episodes, [H, B, ...], exactly as when acting.

        The predicted boundaries decide which belief conditions the encoder, in training too: a labelled one
        would reveal the switch to the encoder before any evidence does.
        """

        def step(state: BeliefState, x: Array) -> tuple[BeliefState, BeliefState]:
            state = self._apply(params, state, x, method="step")
            return state, state

        return jax.lax.scan(step, self.initial((data.reward.shape[1],)), self.embedded(params, data))[1]

    def embedded(self, params: Params, data: Trajectories) -> Array:
        """Evidence of each step as the encoder's `step` takes it in, [H, B, ...]."""
        observation, action, reward = evidence(data)
        return self._apply(params, observation, self.space.encode(action), reward, method="embed")

    def decode_reward(
        self,
        params: Params,
        belief: Gaussian,
        key: Array,
        observation: Array,
        action: Array,
        following: Array,
    ) -> Array:
        """Expected reward of steps under one belief, [k, O], [k, ...], [k, O] -> [k]; the mean over 32 samples."""
        action = self.space.encode(action)

        def decode_sample(key: Array) -> Array:
            z = jnp.broadcast_to(belief.sample(key), (len(observation), belief.mean.shape[-1]))
            return self._apply(params, observation, action, following, z, method="decode_reward")

        return jax.vmap(decode_sample)(jax.random.split(key, 32)).mean(0)

    def loss(self, params: Params, data: Trajectories, key: Array, hyper: VAEConfig) -> tuple[Array, dict[str, Array]]:
        """Negative ELBO of a batch of trajectories, averaged over the valid steps t of all trajectories.

        Args:
            params: of the belief model.
            data: episodes, [H(+1), B, ...], finite after their ends too.
            key: samples of z, and the subsamples of t and j.
            hyper: weights and switches.

        Returns:
            Scalar loss, and the means of its terms before they are weighted.
        """
        states = self.encode(params, data)
        belief = states.belief
        # What lies after the end is a session of its own, which no valid step belongs to.
        bounds = elbo.session_bounds(jnp.where(data.valid, self._sessions(states, data, hyper), -1))
        episode = elbo.session_bounds(jnp.where(data.valid, 0, -1))  # without sessions, an episode is one
        decoded, conditioned = (bounds if on else episode for on in (hyper.session_mask, hyper.conditioning))
        loss, terms = self._bound(params, data, belief, decoded, conditioned, key=key, hyper=hyper)
        if hyper.consistency:
            moved = elbo.consistency(belief, bounds.last)  # 0 across the end
            terms["consistency"] = masked.total(moved, data.valid[1:]) / data.valid.sum()
            loss += hyper.consistency_weight * terms["consistency"]
        if hyper.boundary_head:
            if hyper.boundaries == "labels":
                label = elbo.boundary_labels(data.session, hyper.boundary_alignment)
            else:
                label = self._boundary_posterior(params, data, belief, hyper)
            terms["boundary"] = masked.mean(elbo.boundary_loss(states.boundary_logit, label), data.valid)
            loss += hyper.boundary_weight * terms["boundary"]
        return loss, {"loss": loss, **terms}

    def _bound(
        self,
        params: Params,
        data: Trajectories,
        belief: Gaussian,
        decoded: elbo.SessionBounds,
        conditioned: elbo.SessionBounds,
        *,
        key: Array,
        hyper: VAEConfig,
    ) -> tuple[Array, dict[str, Array]]:
        """Reconstruction and KL, weighted, and each before that.

        Args:
            params: of the belief model.
            data: episodes, [H(+1), B, ...].
            belief: q_t, [H, B, L].
            decoded: bounds of what each step reconstructs.
            conditioned: bounds of the sessions that have a prior.
            key: samples of z, and the subsamples of t and j.
            hyper: weights and switches.
        """
        terms = self._reconstruction(params, data, belief, decoded, key=key, hyper=hyper)
        loss = hyper.reward_weight * terms["reward_error"]
        if self.model.decode_state:
            loss += hyper.state_weight * terms["state_error"]
        prior = self._prior(params, belief, conditioned, hyper)
        kl = elbo.kl_to_prior(belief, prior, conditioned.first, target=hyper.kl_target)
        terms["kl"] = masked.mean(kl, data.valid)
        return loss + hyper.kl_weight * terms["kl"], terms

    def _prior(self, params: Params, belief: Gaussian, bounds: elbo.SessionBounds, hyper: VAEConfig) -> Gaussian:
        """Prior of each step's session, [H, B, L]."""
        dynamics = partial(self._apply, params, method="prior") if hyper.conditioning else None
        return elbo.session_prior(belief, bounds.first, dynamics)

    def _sessions(self, states: BeliefState, data: Trajectories, hyper: VAEConfig) -> Array:
        """Session index of each step for the losses, by labels or by predictions, [H, B]."""
        if hyper.boundaries == "labels":
            return data.session
        # A boundary predicted at t lies before step t - 1, whose reward is the evidence; none counts after the end.
        predicted = (self.boundary(states) & data.valid).astype(data.session.dtype)
        return jnp.cumsum(jnp.concatenate([predicted[1:], jnp.zeros_like(predicted[:1])]), axis=0)

    def _boundary_posterior(self, params: Params, data: Trajectories, belief: Gaussian, hyper: VAEConfig) -> Array:
        """Probability of a boundary by the model's own reward predictions, for learning without labels, [H, B].

        Bayes' rule on each reward: was it made under the belief before it, or under what the latent
        dynamics make of that belief at a switch? A target, so no gradient flows through it.
        """
        inputs = (data.observation[:-1], self.space.encode(data.action), data.observation[1:])

        def log_likelihood(z: Array) -> Array:
            predicted = self._apply(params, *inputs, z, method="decode_reward")
            return -0.5 * ((predicted - data.reward) / hyper.boundary_noise) ** 2

        switched = (
            self._apply(params, belief, method="prior").mean if hyper.conditioning else jnp.zeros_like(belief.mean)
        )
        odds = jnp.log(hyper.boundary_rate / (1.0 - hyper.boundary_rate))
        odds += log_likelihood(switched) - log_likelihood(belief.mean)
        posterior = jax.lax.stop_gradient(jax.nn.sigmoid(odds))
        # The reward of step t - 1 is observed at t; the first one has no session before it.
        return jnp.concatenate([jnp.zeros_like(posterior[:2]), posterior[1:-1]])

    def _reconstruction(
        self,
        params: Params,
        data: Trajectories,
        belief: Gaussian,
        bounds: elbo.SessionBounds,
        *,
        key: Array,
        hyper: VAEConfig,
    ) -> dict[str, Array]:
        """Half the squared errors, summed over the session of t and averaged over valid t and trajectories."""
        step_key, z_key, decode_key = jax.random.split(key, 3)
        horizon, batch = data.reward.shape
        valid, count = data.valid, data.valid.sum()
        if hyper.elbo_terms:
            steps = jax.random.choice(step_key, horizon, (hyper.elbo_terms,), replace=False)
            belief, bounds, valid = jax.tree.map(lambda x: x[steps], (belief, bounds, valid))
            # Those expected, not those drawn: a ratio of two estimates would be biased.
            count *= hyper.elbo_terms / horizon
        z = belief.sample(z_key)  # [T, B, L]
        first, last = bounds
        if hyper.decode_terms:
            chosen = elbo.decode_steps(decode_key, first, last, terms=hyper.decode_terms)  # [T, B, K]
            weight = ((last - first + 1) / hyper.decode_terms)[..., None]
        else:
            every = jnp.arange(horizon)
            chosen = jnp.broadcast_to(every, (*first.shape, horizon))
            weight = (every >= first[..., None]) & (every <= last[..., None])
        # Gathered are inputs, never activations: no gradient has to be scattered back.
        inputs = (data.observation[:-1], self.space.encode(data.action), data.observation[1:], data.reward)
        observation, action, following, reward = jax.tree.map(lambda x: x[chosen, jnp.arange(batch)[:, None]], inputs)
        z = jnp.broadcast_to(z[:, :, None], (*chosen.shape, z.shape[-1]))

        def mean(error: Array) -> Array:
            return masked.total(0.5 * (weight * error).sum(-1), valid) / count

        predicted = self._apply(params, observation, action, following, z, method="decode_reward")
        terms = {"reward_error": mean((predicted - reward) ** 2)}
        if self.model.decode_state:
            predicted = self._apply(params, observation, action, z, method="decode_next")
            terms["state_error"] = mean(((predicted - following) ** 2).sum(-1))
        return terms
