"""PPO and RecurrentPPO of Stable-Baselines3 on one of the environments: what stock trainers reach there.

    python examples/stable_baselines.py --env gridworld --policy recurrent --steps 1200000 --seeds 1 2 3 4

The recurrent policy observes its last action and reward, too (`feedback=True`), by which it can infer the context: RL².
Seeds train side by side, as many at once as there are cores; at the end the deterministic policy of each plays 512
episodes.
"""

import argparse
import json
import os
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sb3_contrib import RecurrentPPO
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy

import dynamite_envs.gym
from dynamite_envs import registry

ENVS = 64  # whose episodes make a rollout
EPISODES = 512  # that are played at the end
PLAYED = 1_000_000  # seeds of their environments begin here
# Of six settings on the gridworld, seeds 1000 and 1001 (results/gridworld/stable_baselines.json); what is not named is
# the library's.
SETTING: dict[str, Any] = {"n_epochs": 4, "gamma": 0.9, "learning_rate": 3e-3}
POLICIES = {
    "plain": (PPO, "MlpPolicy", SETTING),
    "recurrent": (RecurrentPPO, "MlpLstmPolicy", SETTING | {"policy_kwargs": {"lstm_hidden_size": 64}}),
}


class Curve(BaseCallback):
    """Mean return of every rollout, while training."""

    def __init__(self) -> None:
        super().__init__()
        self.returns: list[float] = []

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        episodes = self.model.ep_info_buffer or ()
        self.returns.append(round(float(np.mean([episode["r"] for episode in episodes])), 3))


def train(seed: int, env: str, policy: str, steps: int, changes: dict[str, Any]) -> dict[str, Any]:
    """Train one agent and play it.

    Args:
        seed: of the agent and its environments.
        env: environment.
        policy: of `POLICIES`.
        steps: steps of its environments, rounded up to whole rollouts.
        changes: arguments of the trainer in place of those above.

    Returns:
        What was trained and how, minutes, the mean return of each rollout, and that of the deterministic policy.
    """
    torch.set_num_threads(1)
    trainer, network, setting = POLICIES[policy]
    name, horizon = dynamite_envs.gym.name(env), registry.make(env).horizon
    make = partial(make_vec_env, name, ENVS, env_kwargs={"feedback": policy == "recurrent"})
    envs = make(seed=seed * ENVS)  # environments take the numbers from there on
    sizes = {"n_steps": horizon, "batch_size": ENVS * horizon // 4, "stats_window_size": ENVS}
    setting = sizes | setting | changes
    model = trainer(network, envs, seed=seed, device="cpu", **setting)
    curve, start = Curve(), time.monotonic()
    model.learn(steps, callback=curve)
    minutes = (time.monotonic() - start) / 60
    returns, _ = evaluate_policy(
        model, make(seed=PLAYED + seed * ENVS), n_eval_episodes=EPISODES, return_episode_rewards=True
    )
    return {
        "seed": seed,
        "steps": model.num_timesteps,
        "minutes": minutes,
        "return": float(np.mean(returns)),
        "setting": {"envs": ENVS, **setting},
        "curve": curve.returns,
    }


def main() -> None:
    """Train the seeds, print what each reaches, and write it where asked to."""
    parser = argparse.ArgumentParser(
        description="PPO and RecurrentPPO of Stable-Baselines3 on one of the environments."
    )
    parser.add_argument("--env", default="gridworld", choices=registry.MAKERS)
    parser.add_argument("--policy", default="recurrent", choices=POLICIES)
    parser.add_argument("--steps", type=int, default=1_200_000)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    parser.add_argument("--set", type=json.loads, default={}, help="arguments of the trainer, as JSON")
    parser.add_argument("--out", type=Path, help="a JSON file for the results")
    asked = parser.parse_args()
    one = partial(train, env=asked.env, policy=asked.policy, steps=asked.steps, changes=asked.set)
    workers = min(len(asked.seeds), os.cpu_count() or 1)
    agents = []
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        for agent in pool.map(one, asked.seeds):
            agents.append(agent)
            print(
                "seed {seed}: return {return:.2f} after {steps:,} steps, {minutes:.1f} minutes".format(**agent),
                flush=True,
            )
            if asked.out:
                report = {"env": asked.env, "policy": asked.policy, "agents": agents}
                asked.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
