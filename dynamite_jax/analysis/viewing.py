"""Episodes to look at: what an agent did in one, what it took for a switch, and what it believed of the context."""

from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import struct

from dynamite_envs import pictures
from dynamite_envs.dlcmdp import DLCMDP, FiniteDLCMDP, State
from dynamite_envs.scratch_itch.env import LIMBS, Itch, ScratchItch
from dynamite_jax.analysis import readout
from dynamite_jax.analysis.evaluation import load_run
from dynamite_jax.data.rollout import Agent, play
from dynamite_jax.data.types import AgentParams, Array, Gaussian

EPISODES = 256  # the reader of the belief is fitted to most of them; the last of the others is looked at
ALONG, AROUND = 6, 3  # bins of a limb


class HeldOut(struct.PyTreeNode):
    """The M episodes that the reader was not fitted to.

    Attributes:
        features: of the belief before each step, before normalisation, [H, M, F].
        truth: the context of each step, as in `Episode`, [H, M, ...].
        valid: whether the task had not ended before the step, [H, M].
    """

    features: Array
    truth: Array
    valid: Array


class Episode(struct.PyTreeNode):
    """One episode, of the H steps until the task ended.

    Attributes:
        states: s_0 .. s_H, leaves [H + 1, ...].
        reward: of each step, [H].
        switched: whether a step is the first of a new session, [H]; its context may be the same.
        boundary: whether the agent took its newest evidence to come from a new session before each step, [H].
        truth: the context of each step: its number, [H], or the features of it, [H, C].
        believed: what a small network reads of it off the policy's inputs: probabilities, [H, n], or a normal
            distribution of each feature, [H, C].
        belief: state of the belief before each step, leaves [H, ...].
        held_out: episodes beside it.
    """

    states: State
    reward: Array
    switched: Array
    boundary: Array
    truth: Array
    believed: Array | Gaussian
    belief: Any
    held_out: HeldOut

    @property
    def length(self) -> int:
        """H."""
        return len(self.reward)


class Contexts(NamedTuple):
    """How contexts are told apart.

    Attributes:
        names: of the contexts, or of the features where they are not finitely many.
        finite: whether they are, or are put into bins.
    """

    names: tuple[str, ...]
    finite: bool


def contexts(env: DLCMDP) -> Contexts:
    """How contexts of an environment are told apart, whatever wraps it."""
    env = env.unwrapped
    if isinstance(env, ScratchItch):
        places = [f"{limb} {along} {around}" for limb in LIMBS for along in range(ALONG) for around in range(AROUND)]
        return Contexts(tuple(places), True)
    finite = isinstance(env, FiniteDLCMDP)
    count = env.initial.shape[-1] if finite else _features(env).shape[0]
    return Contexts(pictures.context_names(env, count), finite)


def itch_bins(itch: Itch) -> Array:
    """Bin of a position, [...]: limb, then along, then around."""
    along = jnp.minimum((itch.along * ALONG).astype(int), ALONG - 1)
    around = jnp.clip(((itch.angle / jnp.pi + 0.5) * AROUND).astype(int), 0, AROUND - 1)
    return (itch.limb.astype(int) * ALONG + along) * AROUND + around


def record(env: DLCMDP, agent: Agent, params: AgentParams, key: Array) -> tuple[Episode, Array]:
    """Play `EPISODES` episodes by the deterministic policy, and take down the last.

    Contexts and start states are the same for every agent that is given the same key.

    Returns:
        The episode, with steps behind its end up to the horizon, and its number of steps, [].
    """
    reset_key, key, reader_key = jax.random.split(key, 3)
    start = jax.vmap(env.reset)(jax.random.split(reset_key, EPISODES))
    rollout, states, _ = play(agent, env, params, environment=start, key=key, deterministic=True)
    features = agent.normalise(params.normaliser, "features", rollout.features[:-1])
    truth = jax.vmap(jax.vmap(lambda context: _truth(env.unwrapped, context)))(states.context)[:-1]
    if (known := contexts(env)).finite:
        labels = jax.nn.one_hot(truth, len(known.names))
        labels *= rollout.valid[..., None]  # of zeros nothing is learnt
        believed = readout.probabilities(features, labels, reader_key)
    else:
        believed = readout.numbers(features, truth, rollout.valid, reader_key)
    last = jax.tree.map(lambda x: x[:, -1:], rollout)
    belief = agent.belief.encode(params.belief_params, agent.evidence(params.normaliser, last.trajectories))

    count = jax.tree.leaves(believed)[0].shape[1]
    of_belief = rollout.features[:-1, -count:, env.observation_size :]
    held_out = HeldOut(of_belief, truth[:, -count:], rollout.valid[:, -count:])

    def of_last(x: Array) -> Array:
        return x[:, -1]

    session = states.session[:-1, -1]
    episode = Episode(
        states=jax.tree.map(of_last, states),
        reward=of_last(rollout.reward),
        switched=jnp.concatenate([jnp.zeros(1, bool), session[1:] != session[:-1]]),
        boundary=of_last(rollout.boundary),
        truth=of_last(truth),
        believed=jax.tree.map(of_last, believed),
        belief=jax.tree.map(of_last, belief),
        held_out=held_out,
    )
    return episode, of_last(rollout.valid).sum()


def until(episode: Episode, length: int) -> Episode:
    """The first steps of an episode, and the state after the last."""
    steps = jax.tree.map(lambda x: x[:length], episode.replace(states=None, held_out=None))
    states = jax.tree.map(lambda x: x[: length + 1], episode.states)
    return steps.replace(states=states, held_out=episode.held_out)


def state_at(episode: Episode, step: int) -> State:
    """The state before a step."""
    return jax.tree.map(itemgetter(step), episode.states)


def _features(env: DLCMDP) -> jax.ShapeDtypeStruct:
    """Shape of the features of a context, [C]."""
    return jax.eval_shape(lambda key: env.context_features(env.init_context(key)), jax.random.key(0))


def _truth(env: DLCMDP, context: Any) -> Array:
    """Number of a context, [], or its features, [C]."""
    if isinstance(env, ScratchItch):
        return itch_bins(context)
    return context if isinstance(env, FiniteDLCMDP) else env.context_features(context)


class Viewed(NamedTuple):
    """An agent of a run, and the episode it is looked at in.

    Attributes:
        env: the environment, as the method observes it.
        agent: what acts.
        params: of the agent.
        episode: what it did, of arrays on the host.
    """

    env: DLCMDP
    agent: Agent
    params: AgentParams
    episode: Episode


def of_run(run: Path, *, seed: int, root: int) -> Viewed:
    """Play an episode with an agent of a run.

    Args:
        run: its folder.
        seed: number of the agent among the seeds of the run, which has it.
        root: of contexts and start states.

    Raises:
        UserError: there is no such run, or no checkpoint can be trusted.
    """
    program, params, _ = load_run(run, EPISODES)
    params = jax.tree.map(lambda x: x[seed], jax.device_get(params))
    played = jax.jit(partial(record, program.env, program.agent))(params, jax.random.key(root))
    episode, length = jax.device_get(played)
    return Viewed(program.env, program.agent, params, until(episode, int(length)))
