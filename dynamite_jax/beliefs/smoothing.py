"""A latent belief that learns what a session is from all of its steps, and to know it as early as it can be known.

The evidence lower bound of a session with steps S and prior p(z | session before) is taken once, at its end:

    E_{z ~ q(z | S)} sum_{j in S} [log p(r_j | s_j, a_j, s_{j+1}, z) + w_s log p(s_{j+1} | s_j, a_j, z)]
    - w_kl KL(q(z | S) || prior)

The belief q_t that acts has seen the steps before t alone. It is drawn to the posterior of the session by
KL(sg q(z | S) || q_t), whose minimum over all sessions with one history is the best Gaussian of z given that history.
So no decoder is asked to predict from beliefs that do not know z yet. A baseline learns what the reward is without the
context, and the decoder what is left, in deviations of that, also where the context tells little of the reward.
"""

import jax
import jax.numpy as jnp

from dynamite_envs.dlcmdp import DLCMDP
from dynamite_jax.beliefs import elbo
from dynamite_jax.beliefs.latent import LatentBelief
from dynamite_jax.config import Config, VAEConfig
from dynamite_jax.data import masked
from dynamite_jax.data.types import Array, Gaussian, Params, Trajectories
from dynamite_jax.networks.smoothing_model import SmoothingModel

RESIDUAL_CLIP = 3.0  # bound of what the decoder is asked to explain, in deviations


class SmoothingBelief(LatentBelief):
    """A latent belief that learns from posteriors of whole sessions."""

    @classmethod
    def build(cls, config: Config, env: DLCMDP) -> "SmoothingBelief":
        """Networks of a latent belief, and a smoother with as many units as the encoder's state has."""
        belief = LatentBelief.build(config, env)
        model = belief.model
        smoothing = SmoothingModel(
            encoder=model.encoder,
            decoder_hidden=model.decoder_hidden,
            observation_size=model.observation_size,
            decode_state=model.decode_state,
            dynamics_prior=model.dynamics_prior,
            units=config.network.hidden,
        )
        return cls(smoothing, belief.space, belief.observation_size)

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
        """Likelihood of the baseline, ELBO of the sessions, and how far beliefs are from their posteriors.

        Each step decodes itself, with a z of its own, and counts as often as its session has steps: the terms are
        estimates of those of `LatentBelief`.
        """
        valid = data.valid
        observation, action, following = data.observation[:-1], self.space.encode(data.action), data.observation[1:]
        steps = (observation, action, following)
        baseline, deviation = self._apply(params, *steps, method="without_context")
        log_likelihood = -0.5 * ((data.reward - baseline) / deviation) ** 2 - jnp.log(deviation)
        terms = {"baseline": -masked.mean(log_likelihood, valid)}
        baseline, deviation = jax.lax.stop_gradient((baseline, deviation))
        residual = jnp.clip((data.reward - baseline) / deviation, -RESIDUAL_CLIP, RESIDUAL_CLIP)
        posterior = self._apply(params, *steps, residual, *decoded, method="posterior")
        z, length = posterior.sample(key), (decoded.last - decoded.first + 1).astype(jnp.float32)
        predicted = (self._apply(params, *steps, z, method="decode_reward") - baseline) / deviation
        terms["reward_error"] = 0.5 * masked.mean(length * (predicted - residual) ** 2, valid)
        loss = terms["baseline"] + hyper.reward_weight * terms["reward_error"]
        if self.model.decode_state:
            error = self._apply(params, observation, action, z, method="decode_next") - following
            terms["state_error"] = 0.5 * masked.mean(length * (error**2).sum(-1), valid)
            loss += hyper.state_weight * terms["state_error"]
        prior = self._prior(params, jax.lax.stop_gradient(belief), conditioned, hyper)
        terms["kl"] = masked.mean(elbo.kl(posterior, prior), valid)
        terms["filter"] = masked.mean(elbo.kl(jax.lax.stop_gradient(posterior), belief), valid)
        return loss + hyper.kl_weight * terms["kl"] + terms["filter"], terms
