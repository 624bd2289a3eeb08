"""PPO on beliefs that are fixed inputs; formulas as in `dynamite_jax.algorithms.ppo`."""

import math
from typing import Any, NamedTuple

import torch  # pyright: ignore[reportMissingImports]
from torch import Tensor  # pyright: ignore[reportMissingImports]


class Samples(NamedTuple):
    """Steps to learn from, [N, ...]."""

    features: Tensor
    action: Tensor
    log_prob: Tensor
    value: Tensor
    advantage: Tensor
    target: Tensor

    def of(self, numbers: Tensor) -> "Samples":
        """The samples with these numbers."""
        return Samples(*(x[numbers] for x in self))


def sample(policy: Tensor, continuous: bool) -> tuple[Tensor, Tensor]:
    """An action of each distribution [E, P], and its log-probability [E]."""
    if continuous:
        mean, log_std = policy.chunk(2, dim=-1)
        action = mean + torch.exp(log_std) * torch.randn_like(mean)
    else:
        action = torch.multinomial(torch.softmax(policy, dim=-1), 1)[:, 0]
    return action, log_prob(policy, action, continuous)


def log_prob(policy: Tensor, action: Tensor, continuous: bool) -> Tensor:
    """Log-probability of actions, [..., P] and [..., A] or [...] -> [...]."""
    if not continuous:
        return torch.log_softmax(policy, dim=-1).gather(-1, action[..., None])[..., 0]
    mean, log_std = policy.chunk(2, dim=-1)
    scaled = (action - mean) * torch.exp(-log_std)
    return -(0.5 * scaled**2 + log_std + 0.5 * math.log(2.0 * math.pi)).sum(-1)


def entropy(policy: Tensor, continuous: bool) -> Tensor:
    """Entropy of actions in nats, [..., P] -> [...]."""
    if continuous:
        return (policy.chunk(2, dim=-1)[1] + 0.5 * math.log(2.0 * math.pi * math.e)).sum(-1)
    log_probability = torch.log_softmax(policy, dim=-1)
    return -(log_probability.exp() * log_probability).sum(-1)


def advantages(reward: Tensor, terminated: Tensor, value: Tensor, *, gamma: float, lambda_: float) -> Tensor:
    """Generalised advantage estimates, [H, E] of rewards, [H + 1, E] of values -> [H, E]."""
    discount = gamma * (1.0 - terminated.to(reward.dtype))
    error = (reward + discount * value[1:] - value[:-1]).unbind()
    decay = (lambda_ * discount).unbind()
    reversed_advantages = [error[-1]]
    for t in range(len(error) - 2, -1, -1):
        reversed_advantages.append(torch.addcmul(error[t], decay[t], reversed_advantages[-1]))
    return torch.stack(reversed_advantages[::-1])


def loss(policy: Tensor, value: Tensor, batch: Samples, *, continuous: bool, hyper: Any) -> tuple[Tensor, dict]:
    """Clipped surrogate, clipped value error and entropy bonus, and its named means."""
    log_ratio = log_prob(policy, batch.action, continuous) - batch.log_prob
    ratio = log_ratio.exp()
    advantage = (batch.advantage - batch.advantage.mean()) / (batch.advantage.std(correction=0) + 1e-8)
    clipped = ratio.clamp(1.0 - hyper.clip, 1.0 + hyper.clip)
    policy_loss = -torch.minimum(ratio * advantage, clipped * advantage).mean()
    clipped_value = batch.value + (value - batch.value).clamp(-hyper.clip, hyper.clip)
    value_loss = 0.5 * torch.maximum((value - batch.target) ** 2, (clipped_value - batch.target) ** 2).mean()
    bonus = entropy(policy, continuous).mean()
    total = policy_loss + hyper.value_weight * value_loss - hyper.entropy * bonus
    return total, {"policy_loss": policy_loss, "value_loss": value_loss, "entropy": bonus}
