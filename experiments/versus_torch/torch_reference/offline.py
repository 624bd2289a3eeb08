"""IQL and TD3+BC in PyTorch on recorded transitions; losses as in `dynamite_jax.algorithms.learners`.

python -m experiments.versus_torch.torch_reference.offline --config runs/NAME/config.json

The loop is that of single-file implementations such as CORL's: transitions lie in memory as tensors, states are
normalised once, a minibatch is drawn at random, and one optimiser step follows the other. Prints a JSON line every half
second: optimiser `steps` so far.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import torch  # pyright: ignore[reportMissingImports]
from safetensors.numpy import load_file
from torch import Tensor, nn  # pyright: ignore[reportMissingImports]

from dynamite_envs.errors import UserError
from experiments.versus_torch.torch_reference.__main__ import Parser, read
from experiments.versus_torch.torch_reference.networks import MLP, ActorCritic
from experiments.versus_torch.torch_reference.ppo import log_prob

LEARNERS = ("iql", "td3bc")
REPORTED_S = 0.5


class Transitions(NamedTuple):
    """Recorded steps, [N, ...]."""

    features: Tensor
    following: Tensor
    action: Tensor
    reward: Tensor
    terminated: Tensor

    def of(self, numbers: Tensor) -> "Transitions":
        """The steps with these numbers."""
        return Transitions(*(x[numbers] for x in self))


class Learner(nn.Module):
    """Policy, value and critics, the slow copy of the critics, and their optimiser."""

    def __init__(self, config: Any, features: int, actions: int, *, continuous: bool):
        super().__init__()
        network, self.hyper, self.continuous = config.network, config.offline, continuous
        inputs, outputs = (features + actions, 1) if continuous else (features, actions)

        def critics() -> nn.ModuleList:
            each = (
                MLP(inputs, network.value_hidden, outputs, activation=network.activation)
                for _ in range(config.offline.critics)
            )
            return nn.ModuleList(each)

        self.actor = ActorCritic(network, features, actions, continuous=continuous)
        self.critics, self.slow = critics(), critics()
        self.slow.load_state_dict(self.critics.state_dict())
        self.slow.requires_grad_(requires_grad=False)
        self._fast, self._slow = list(self.critics.parameters()), list(self.slow.parameters())
        groups = [
            {"params": list(self.actor.parameters()), "lr": self.hyper.lr},
            {"params": self._fast, "lr": self.hyper.critic_lr},
        ]
        self.adam = torch.optim.Adam(groups, fused=True)

    def loss(self, batch: Transitions) -> Tensor:
        """Of all that learns, as one sum whose gradients do not cross."""
        return self.iql(batch) if self.hyper.learner == "iql" else self.td3_bc(batch)

    def step(self, batch: Transitions, factor: float) -> None:
        """One optimiser step, the rate of policy and value times a factor."""
        policy = self.adam.param_groups[0]
        policy["lr"] = self.hyper.lr * factor
        self.adam.zero_grad()
        self.loss(batch).backward()
        for group in self.adam.param_groups:
            nn.utils.clip_grad_norm_(group["params"], self.hyper.max_grad_norm, foreach=True)
        self.adam.step()
        with torch.no_grad():
            torch._foreach_lerp_(self._slow, self._fast, self.hyper.polyak)  # pyright: ignore

    def iql(self, batch: Transitions) -> Tensor:
        """Implicit Q-learning."""
        hyper = self.hyper
        policy, value = self.actor(batch.features)
        with torch.no_grad():
            following = self.actor.value(batch.following)[..., 0]
            known = torch.stack(self._q(self.slow, batch.features, batch.action)).amin(0)
            wanted = batch.reward + hyper.gamma * torch.where(batch.terminated, 0.0, following)
            imitated = (hyper.temperature * (known - value)).exp().clamp(max=hyper.max_weight)
        difference = known - value
        value_loss = (torch.where(difference > 0, hyper.expectile, 1.0 - hyper.expectile) * difference**2).mean()
        policy_loss = -(imitated * log_prob(policy, batch.action, self.continuous)).mean()
        return value_loss + policy_loss + self._critic_loss(batch, wanted)

    def td3_bc(self, batch: Transitions) -> Tensor:
        """TD3 with behaviour cloning, without a slow copy of the policy."""
        hyper = self.hyper
        with torch.no_grad():
            noise = (hyper.noise * torch.randn_like(batch.action)).clamp(-2.5 * hyper.noise, 2.5 * hyper.noise)
            smoothed = (self._mode(batch.following).clamp(-1.0, 1.0) + noise).clamp(-1.0, 1.0)
            following = torch.stack(self._q(self.slow, batch.following, smoothed)).amin(0)
            wanted = batch.reward + hyper.gamma * torch.where(batch.terminated, 0.0, following)
        critic_loss = self._critic_loss(batch, wanted)
        chosen = self._mode(batch.features).clamp(-1.0, 1.0)
        first = self.critics[0]
        first.requires_grad_(requires_grad=False)  # the policy's loss moves no critic
        worth = first(torch.cat([batch.features, chosen], dim=-1))[..., 0]
        first.requires_grad_(requires_grad=True)
        unit = worth.abs().mean().detach().clamp(min=1e-6)
        distance = ((chosen - batch.action) ** 2).mean(-1)
        return critic_loss + (distance - hyper.bc_weight * worth / unit).mean()

    def _mode(self, features: Tensor) -> Tensor:
        return self.actor.policy(features)

    def _q(self, critics: Any, features: Tensor, action: Tensor) -> list[Tensor]:
        if self.continuous:
            inputs = torch.cat([features, action], dim=-1)
            return [critic(inputs)[..., 0] for critic in critics]
        return [critic(features).gather(-1, action[:, None])[..., 0] for critic in critics]

    def _critic_loss(self, batch: Transitions, wanted: Tensor) -> Tensor:
        q = self._q(self.critics, batch.features, batch.action)
        return torch.stack([((each - wanted) ** 2).mean() for each in q]).sum()


def transitions(folder: Path) -> tuple[Transitions, int]:
    """All recorded steps of a set, features in deviations; and how many actions there are.

    Raises:
        UserError: there are none, or tasks end in them.
    """
    paths = sorted(folder.glob("episodes-*.safetensors"))
    if not paths:
        raise UserError(f"offline.data is {str(folder)!r}, which holds no episodes")
    shards = [load_file(path) for path in paths]

    def joined(name: str) -> Tensor:
        return torch.cat([torch.from_numpy(shard[name]) for shard in shards])

    if joined("terminated").any():
        raise UserError(f"offline.data is {str(folder)!r}, in which tasks end; in PyTorch none may")
    observation, action, reward = joined("observation"), joined("action"), joined("reward")
    mean, deviation = observation.mean((0, 1)), observation.std((0, 1)).clamp(min=1e-3)
    features = (observation - mean) / deviation
    steps = Transitions(
        features=features[:, :-1].flatten(0, 1).contiguous(),
        following=features[:, 1:].flatten(0, 1).contiguous(),
        action=(action if action.is_floating_point() else action.long()).flatten(0, 1).contiguous(),
        reward=(reward / reward.sum(1).std()).flatten(),
        terminated=joined("terminated").flatten(),
    )
    return steps, action.shape[-1] if action.is_floating_point() else int(action.max()) + 1


def main() -> int:
    """Train until stopped; bad input is one line on stderr and exit code 2."""
    parser = Parser(prog="python -m experiments.versus_torch.torch_reference.offline", description=__doc__)
    parser.add_argument("--config", type=Path, required=True, help="config.json of an offline run")
    parser.add_argument("--threads", type=int, default=1, help="of PyTorch's operations")
    parser.add_argument("--batch", type=int, default=256, help="steps of a minibatch")
    parser.add_argument("--steps", type=int, default=10**9, help="of the optimiser")
    arguments = parser.parse_args()
    try:
        for name in ("threads", "batch", "steps"):
            if getattr(arguments, name) < 1:
                raise UserError(f"{name} is {getattr(arguments, name)}; it must be 1 or more")
        run(arguments.threads, arguments.batch, arguments.steps, read(arguments.config, ("markov",)))
    except (UserError, OSError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return 0


def run(threads: int, batch: int, steps: int, config: Any) -> None:
    """Train and report.

    Args:
        threads: of PyTorch's operations.
        batch: recorded steps of a minibatch.
        steps: of the optimiser.
        config: of an offline run.

    Raises:
        UserError: the config asks for something that is not implemented in PyTorch, or its episodes are missing.
    """
    allowed = {"learner": LEARNERS, "relabel": (0.0,)}
    for name, values in allowed.items():
        if (value := getattr(config.offline, name)) not in values:
            raise UserError(f"offline.{name} is {value!r}; in PyTorch it must be {' or '.join(map(str, values))}")
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    data, actions = transitions(Path(config.offline.data))
    learner = Learner(config, data.features.shape[-1], actions, continuous=data.action.is_floating_point())
    reported = time.perf_counter()
    for step in range(1, steps + 1):
        learner.step(data.of(torch.randint(len(data.reward), (batch,))), 1.0 - step / (steps + 1))
        if time.perf_counter() - reported > REPORTED_S:
            reported = time.perf_counter()
            print(json.dumps({"steps": step}), flush=True)


if __name__ == "__main__":
    sys.exit(main())
