"""The session-aware ELBO over a batch of episodes, all steps at once; formulas as in `dynamite_jax.beliefs.elbo`."""

from typing import Any, NamedTuple

import torch  # pyright: ignore[reportMissingImports]
from torch import Tensor  # pyright: ignore[reportMissingImports]
from torch.nn.functional import binary_cross_entropy_with_logits  # pyright: ignore[reportMissingImports]

from experiments.versus_torch.torch_reference.networks import BeliefModel


class Episodes(NamedTuple):
    """Normalised episodes, time-major: s [H + 1, B, O], encoded a [H, B, A], r [H, B], session [H, B]."""

    observation: Tensor
    action: Tensor
    reward: Tensor
    session: Tensor

    def of(self, numbers: Tensor) -> "Episodes":
        """The episodes with these numbers."""
        return Episodes(*(x[:, numbers] for x in self))


class Draws(NamedTuple):
    """The random part of a loss: noise of z [H, B, L], and the steps decoded for each step, [H, B, K]."""

    noise: Tensor
    decoded: Tensor


def kl(q: Tensor, p: Tensor) -> Tensor:
    """KL(q || p) of diagonal Gaussians, [..., 2 L] -> [...], in nats."""
    (mean_q, log_q), (mean_p, log_p) = q.chunk(2, dim=-1), p.chunk(2, dim=-1)
    difference = log_p - log_q
    return 0.5 * (difference + torch.exp(-difference) + (mean_q - mean_p) ** 2 * torch.exp(-log_p) - 1.0).sum(-1)


def session_bounds(session: Tensor) -> tuple[Tensor, Tensor]:
    """First and last step of each step's session, [H, B] -> two of [H, B]."""
    horizon = session.shape[0]
    step = torch.arange(horizon, device=session.device)[:, None]
    changes = session[1:] != session[:-1]
    edge = torch.ones_like(session[:1], dtype=torch.bool)
    first = torch.where(torch.cat([edge, changes]), step, 0).cummax(0).values
    last = torch.where(torch.cat([changes, edge]), step, horizon - 1).flip(0).cummin(0).values.flip(0)
    return first, last


def evidence(episodes: Episodes, start: Tensor) -> Tensor:
    """Inputs of the encoder at each step, (s_t, a_{t-1}, r_{t-1}), [H, B, I].

    Args:
        episodes: the episodes.
        start: the encoded action before the first step, [A].
    """
    first = start.expand_as(episodes.action[:1])
    action = torch.cat([first, episodes.action[:-1]])
    reward = torch.cat([torch.zeros_like(episodes.reward[:1]), episodes.reward[:-1]])
    return torch.cat([episodes.observation[:-1], action, reward[..., None]], dim=-1)


def draw(episodes: Episodes, latent: int, vae: Any) -> Draws:
    """Noise of z, and steps j of each step's session (of the episode, without the mask), one from each equal part."""
    first, last = reconstructed(episodes.session, vae)
    if vae.decode_terms:
        part = torch.arange(vae.decode_terms) + torch.rand(*first.shape, vae.decode_terms)
        length = (last - first + 1)[..., None]
        decoded = torch.minimum(first[..., None] + (part / vae.decode_terms * length).long(), last[..., None])
    else:
        decoded = torch.arange(len(first)).expand(*first.shape, -1)
    return Draws(torch.randn(*first.shape, latent), decoded)


def reconstructed(session: Tensor, vae: Any) -> tuple[Tensor, Tensor]:
    """First and last of the steps that each step reconstructs."""
    return session_bounds(session if vae.session_mask else torch.zeros_like(session))


def loss(
    model: BeliefModel, episodes: Episodes, *, start: Tensor, draws: Draws, vae: Any
) -> tuple[Tensor, dict[str, Tensor]]:
    """Negative ELBO averaged over steps and episodes, and its terms before they are weighted."""
    belief, logit = model.encoder.encode(evidence(episodes, start))
    terms = _reconstruction(model, episodes, belief, draws=draws, vae=vae)
    loss = vae.reward_weight * terms["reward_error"]
    if model.decode_state:
        loss = loss + vae.state_weight * terms["state_error"]
    first, last = session_bounds(episodes.session)
    terms["kl"] = kl(belief, _prior(model, belief, first, vae=vae)).mean()
    loss = loss + vae.kl_weight * terms["kl"]
    if vae.consistency:
        terms["consistency"] = consistency(belief, last)
        loss = loss + vae.consistency_weight * terms["consistency"]
    if logit is not None:
        changed = (episodes.session[1:] != episodes.session[:-1]).to(logit.dtype)
        lag = {"evidence": 2, "action": 1}[vae.boundary_alignment]
        label = torch.cat([changed.new_zeros(lag, changed.shape[1]), changed])[: len(logit)]
        terms["boundary"] = binary_cross_entropy_with_logits(logit, label)
        loss = loss + vae.boundary_weight * terms["boundary"]
    return loss, {"loss": loss, **terms}


def _prior(model: BeliefModel, belief: Tensor, first: Tensor, *, vae: Any) -> Tensor:
    """The target of each step's KL term, [H, B, 2 L]."""
    standard = torch.zeros_like(belief)
    if not vae.conditioning:
        first = torch.zeros_like(first)
        prior = standard
    else:
        batch = torch.arange(first.shape[1])
        predicted = model.prior(belief[first, batch])
        prior = torch.where((first > 0)[..., None], predicted, standard)
    if vae.kl_target == "latent_dynamics":
        return prior
    is_first = first == torch.arange(len(first))[:, None]
    before = torch.cat([belief[:1], belief[:-1]])
    return torch.where(is_first[..., None], prior, before)


def consistency(belief: Tensor, last: Tensor) -> Tensor:
    """Consistency penalty: how far steps move beliefs away from the final ones of their sessions, nats a step."""
    end = belief.detach()[last, torch.arange(last.shape[1])]
    farther = kl(belief[1:], end[:-1]) - kl(belief, end)[:-1]
    return torch.where(last[1:] == last[:-1], farther.clamp(min=0.0), 0.0).sum() / last.numel()


def _reconstruction(
    model: BeliefModel, episodes: Episodes, belief: Tensor, *, draws: Draws, vae: Any
) -> dict[str, Tensor]:
    """Half the squared errors, summed over the steps that each step reconstructs."""
    first, last = reconstructed(episodes.session, vae)
    mean, log_variance = belief.chunk(2, dim=-1)
    z = mean + torch.exp(0.5 * log_variance) * draws.noise
    if vae.decode_terms:
        weight = ((last - first + 1) / vae.decode_terms).to(z.dtype)[..., None]
    else:
        weight = ((draws.decoded >= first[..., None]) & (draws.decoded <= last[..., None])).to(z.dtype)
    batch = torch.arange(first.shape[1])[:, None]
    observation, action = episodes.observation[draws.decoded, batch], episodes.action[draws.decoded, batch]
    following, reward = episodes.observation[draws.decoded + 1, batch], episodes.reward[draws.decoded, batch]
    z = z[:, :, None].expand(*draws.decoded.shape, -1)

    def half_squares(error: Tensor) -> Tensor:
        return 0.5 * (weight * error).sum(-1).mean()

    predicted = model.reward_decoder(torch.cat([observation, action, following, z], dim=-1))[..., 0]
    terms = {"reward_error": half_squares((predicted - reward) ** 2)}
    if model.decode_state:
        change = model.state_decoder(torch.cat([observation, action, z], dim=-1))
        terms["state_error"] = half_squares(((observation + change - following) ** 2).sum(-1))
    return terms
