"""A search of hyperparameters with Optuna, which goes on where it was stopped: the same command runs the next trials.

    python examples/optuna_search.py --env gridworld --trials 20 --steps 1000000

Trials are judged by the mean return while training, over seeds that results are not reported on.
"""

import argparse
from typing import Any

import numpy as np
import optuna

import dynamite_jax as dj

ROOT = 1000  # of tuning seeds; results are reported from root seed 1


def objective(trial: optuna.Trial, env: str, method: str, **sizes: int) -> float:
    """Mean return while training of one setting."""
    start = dj.preset(env, method)
    changes: dict[str, Any] = {
        "ppo.lr": start.ppo.lr * trial.suggest_float("factor of ppo.lr", 1 / 3, 3, log=True),
        "ppo.entropy": start.ppo.entropy * trial.suggest_float("factor of ppo.entropy", 1 / 3, 3, log=True),
        "ppo.epochs": trial.suggest_categorical("ppo.epochs", [4, 8]),
        "vae.lr": start.vae.lr * trial.suggest_float("factor of vae.lr", 1 / 3, 3, log=True),
    }
    records = dj.train(dj.preset(env, method, seed=ROOT, **sizes, **changes)).records
    returns = [float(np.mean(record["return"])) for record in records]
    trial.set_user_attr("return at the end", returns[-1])
    return float(np.mean(returns))


def main() -> None:
    """Run trials, and print the best."""
    parser = argparse.ArgumentParser(description="A search of hyperparameters with Optuna.")
    parser.add_argument("--env", default="gridworld")
    parser.add_argument("--method", default="dynamite")
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--steps", type=int, default=1_000_000)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--storage", default="sqlite:///optuna.db", help="where trials are kept")
    arguments = parser.parse_args()
    dj.setup(arguments.seeds)
    name = f"{arguments.env} {arguments.method} {arguments.steps}"
    study = optuna.create_study(storage=arguments.storage, study_name=name, direction="maximize", load_if_exists=True)
    sizes = {"steps": arguments.steps, "seeds": arguments.seeds}
    study.optimize(lambda trial: objective(trial, arguments.env, arguments.method, **sizes), n_trials=arguments.trials)
    print(f"{len(study.trials)} trials; the best return while training is {study.best_value:.2f}")
    print(study.best_params)


if __name__ == "__main__":
    main()
