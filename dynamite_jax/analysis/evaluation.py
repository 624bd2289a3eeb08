"""Evaluation: the deterministic policy on fresh contexts, and the error of its belief."""

import dataclasses
import sys
from pathlib import Path
from typing import Any

import jax

from dynamite_envs import exact
from dynamite_envs.dlcmdp import DLCMDP
from dynamite_envs.errors import UserError
from dynamite_envs.wrappers import ObserveContext
from dynamite_jax import config as configs
from dynamite_jax.analysis import posterior, sessions, statistics
from dynamite_jax.analysis.references import references
from dynamite_jax.analysis.rollouts import play_episodes
from dynamite_jax.data.rollout import Agent
from dynamite_jax.data.types import AgentParams
from dynamite_jax.runtime import loggers, processes, run_folder
from dynamite_jax.runtime.program import Program


def evaluate(program: Program, params: AgentParams, *, episodes: int, seed: int) -> loggers.Record:
    """Play fresh episodes with every seed's agent.

    Args:
        program: its environment and agent.
        params: parameters and statistics of every seed's agent, [seeds, ...], or those that lie on its devices.
        episodes: number of episodes of each seed.
        seed: root of the contexts and start states, which are the same for every agent.

    Returns:
        `return` (per seed, IQM, interval), `fraction_of_bayes_optimal` and `regret` where they are known,
        `references`, `sessions`, `recovery`, `boundary` and `belief`, see `analysis`; `outcomes`, the means of what the
        environment counts.
    """
    env, agent = program.env, program.agent
    solution = exact.find(env)
    root = jax.random.fold_in(jax.random.key(seed), 0x5EED)  # apart from every training stream

    def measure_seed(params: AgentParams, key: jax.Array) -> dict[str, Any]:
        return _measure(env, agent, params, solution=solution, episodes=episodes, key=key)

    recorded = jax.device_get(program.one_by_one(measure_seed, params, root))

    reward, session = recorded["reward"], recorded["session"]  # [seeds, H, N]
    result: loggers.Record = {"return": statistics.summarise(reward.sum(1).mean(-1)), "episodes": episodes}
    result["references"] = references(solution)
    if best := result["references"].get("bayes_optimal"):
        result["fraction_of_bayes_optimal"] = result["return"]["iqm"] / best
        result["fraction_of_bayes_optimal_per_seed"] = [value / best for value in result["return"]["per_seed"]]
    if recorded["outcomes"]:  # [seeds, N]
        result["outcomes"] = {name: statistics.summarise(x.mean(-1)) for name, x in recorded["outcomes"].items()}
    if "physics" in recorded and isinstance(solution, exact.Regret):
        result["regret"] = posterior.regret(solution, recorded["physics"], recorded["action"], reward=reward)
    result["sessions"] = sessions.session_returns(reward, session)
    result["recovery"] = sessions.recovery(reward, session)
    if agent.belief.detects:
        alignment = program.config.vae.boundary_alignment
        result["boundary"] = sessions.detection(recorded["boundary"], session, alignment)
    if errors := recorded["errors"]:  # [seeds]
        prior_error = errors.pop("error_of_knowing_nothing")
        result["belief"] = {name: statistics.summarise(error) for name, error in errors.items()}
        result["belief"] |= {"error_of_knowing_nothing": float(prior_error.mean())}
    return result


def _measure(
    env: DLCMDP, agent: Agent, params: AgentParams, *, solution: exact.ExactSolution, episodes: int, key: jax.Array
) -> dict[str, Any]:
    """The measurements of one seed: reward, session and boundary, [H, N]; outcomes, [N]; errors of its belief, [].

    Where regret is known also physics and actions. Neither these nor errors are measured where the agent observes the
    context.
    """
    reset_key, action_key, decoder_key, reader_key = jax.random.split(key, 4)
    batch = play_episodes(agent, env, params, episodes=episodes, reset_key=reset_key, action_key=action_key)
    rollout = batch.rollout
    outcomes = jax.vmap(env.outcomes)(jax.tree.map(lambda x: x[-1], batch.physics))
    record = {"reward": rollout.reward, "session": rollout.session, "boundary": rollout.boundary}
    record |= {"outcomes": outcomes, "errors": {}}
    if isinstance(env, ObserveContext):
        return record
    if isinstance(solution, exact.Regret):
        record |= {"physics": batch.physics, "action": rollout.action}
    if isinstance(solution, exact.BayesFilter):
        record["errors"] = posterior.errors(
            solution, agent=agent, params=params, episodes=batch, decoder_key=decoder_key, reader_key=reader_key
        )
    return record


def load_run(run: Path, episodes: int | None = None) -> tuple[Program, AgentParams, int]:
    """Config and newest valid checkpoint of a run folder.

    Args:
        run: the folder.
        episodes: number of episodes of each seed that will be played; by default that of the config.

    Returns:
        The program, parameters and statistics of every seed's agent, [seeds, ...], or of several processes those of the
        rows, and the chunk of the checkpoint.

    Raises:
        UserError: there is no run, or none of its checkpoints can be trusted.
    """
    from dynamite_jax.runtime.checkpoints import Checkpoints, SchemaError  # here, since orbax takes long to import

    config = run_folder.read_config(run)
    config = dataclasses.replace(config, eval_episodes=episodes or config.eval_episodes)
    if reason := configs.foreign_physics(config):
        if processes.is_first():
            print(f"warning: {reason}; using what runs here", file=sys.stderr)
        config = dataclasses.replace(config, physics=configs.PhysicsConfig())
    env = configs.validate(config)
    if not (run / "checkpoints").is_dir():
        raise UserError(f"run is {str(run)!r}; it has no checkpoints folder to evaluate from")
    program = Program(config, env)
    like, params_of = program.kept(program.init()), program.algorithm.agent_params
    checkpoints = Checkpoints(run / "checkpoints", seeds=config.seeds)
    if processes.count() > 1:  # each reads all arrays of its seeds, since digests are of all seeds
        try:
            step, states, damaged = checkpoints.restore(like)
        except SchemaError:
            raise UserError(f"run is {str(run)!r}, of an earlier version; a single process can evaluate it") from None
        params = params_of(states)
    else:
        step, params, damaged = checkpoints.restore(params_of(like), part=True)
    checkpoints.close()
    for line in damaged if processes.is_first() else ():
        print(f"warning: {line}; using step {step}", file=sys.stderr)
    return program, params, step
