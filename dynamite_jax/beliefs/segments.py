"""SeCBAD (Chen et al., 2022): a latent belief for each possible start of the segment, and a Bayes filter over starts.

Training starts the encoder anew at every labelled segment, so each latent describes one segment. When acting, the
filter weighs hypotheses of how many transitions the segment is old, and the policy gets the latent of the likeliest.
How far off its predictions are within a segment is learnt beside the networks: with errors taken for larger than they
are, a reward that contradicts a segment never outweighs the odds against a switch.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import struct

from dynamite_envs.dlcmdp import DLCMDP
from dynamite_jax.beliefs import elbo
from dynamite_jax.beliefs.belief import Belief
from dynamite_jax.beliefs.latent import LatentBelief
from dynamite_jax.config import Config, VAEConfig
from dynamite_jax.data import masked
from dynamite_jax.data.types import Array, BeliefState, Gaussian, Params, Trajectories

HYPOTHESES = 8  # the least likely makes room for the newest; exact where there are as many as steps
LEAST_ERROR = 0.02  # in deviations; no prediction is taken to be better than this
SPEED = 10.0  # how much faster than weights the logarithms of these errors move
SHARE = 1e-3  # of the likelihood of these errors in the loss; Adam's steps do not depend on it, clipped gradients do


class SegmentState(struct.PyTreeNode):
    """Hypotheses on the start of the segment, K of them.

    Attributes:
        encoded: encoder state of each, [E, K, ...].
        log_weight: log-probability of each, [E, K]; -inf of a place not in use.
        length: transitions of the segment so far, [E, K].
        fresh: belief of a segment without transitions, at the last observation, [E, L].
        observation: the last one, [E, O].
        step: t, [E].
    """

    encoded: BeliefState
    log_weight: Array
    length: Array
    fresh: Gaussian
    observation: Array
    step: Array


@dataclass(frozen=True)
class SegmentBelief(LatentBelief):
    """The latent of the most probable segment.

    Attributes:
        rate: probability of a switch in a step; lengths of segments are geometric.
        hypotheses: K, 2 or more.
    """

    rate: float
    hypotheses: int = HYPOTHESES

    @classmethod
    def build(cls, config: Config, env: DLCMDP) -> "SegmentBelief":
        """Networks of a latent belief, and the rate of switches of the environment."""
        belief = LatentBelief.build(config, env)
        return cls(belief.model, belief.space, belief.observation_size, rate=float(env.p))

    def init(self, key: Array) -> Params:
        """Parameters of all networks, and the logarithms of the errors of prediction over `SPEED`, at first 0."""
        error = {"reward": jnp.zeros(())}
        if self.model.decode_state:
            error["observation"] = jnp.zeros(self.observation_size)
        return {**super().init(key), "error": error}

    @property
    def detects(self) -> bool:
        """A boundary is predicted where the likeliest segment has one transition."""
        return True

    def initial(self, batch: tuple[int, ...]) -> SegmentState:
        """One hypothesis, of a segment without transitions."""
        places = (*batch, self.hypotheses)
        return SegmentState(
            encoded=self.model.encoder.initial(places),
            log_weight=jnp.where(jnp.arange(self.hypotheses) == 0, jnp.zeros(places), -jnp.inf),
            length=jnp.zeros(places, jnp.int32),
            fresh=Gaussian.standard((*batch, self.model.encoder.latent)),
            observation=jnp.zeros((*batch, self.observation_size)),
            step=jnp.zeros(batch, jnp.int32),
        )

    def update(
        self, params: Params, state: SegmentState, observation: Array, action: Array, reward: Array
    ) -> SegmentState:
        """Weigh the hypotheses by the reward that each expected, add the one that a segment began with it."""
        batch = observation.shape[:1]
        nothing = self.model.encoder.initial((*batch, 1))
        encoded_action = self.space.encode(action)
        inputs = self._apply(params, observation, encoded_action, reward, method="embed")[:, None]

        def join(a: Array, b: Array) -> Array:
            """Hypotheses of both, [E, K, ...] and [E, 1, ...] -> [E, K + 1, ...]."""
            return jnp.concatenate([a, b], axis=1)

        encoded = self._apply(params, jax.tree.map(join, state.encoded, nothing), inputs, method="step")

        z = join(state.encoded.belief.mean, state.fresh.mean[:, None])
        likelihood = self._log_likelihood(
            params, z, observation=state.observation, action=encoded_action, following=observation, reward=reward
        )
        # No switch comes before the first transition.
        goes_on = jnp.where(state.length > 0, jnp.log1p(-self.rate), 0.0)
        ends = jnp.where(state.length > 0, state.log_weight + jnp.log(self.rate), -jnp.inf)
        begun = jax.nn.logsumexp(ends, axis=1, keepdims=True)
        log_weight = join(state.log_weight + goes_on, begun) + likelihood
        length = join(state.length + 1, jnp.ones((*batch, 1), jnp.int32))

        # The newest takes the place of the least likely.
        place = jax.nn.one_hot(jnp.argmin(log_weight[:, :-1], axis=1), self.hypotheses, dtype=bool)

        def settle(x: Array) -> Array:
            chosen = place.reshape(*place.shape, *[1] * (x.ndim - 2))
            return jnp.where(chosen, x[:, -1:], x[:, :-1])

        first = (state.step == 0)[:, None]  # no transition yet: nothing to weigh
        log_weight = settle(log_weight)
        log_weight -= jax.nn.logsumexp(log_weight, axis=1, keepdims=True)
        kept = jax.tree.map(lambda x: x[:, :-1], encoded)
        settled = jax.tree.map(settle, encoded)

        def choose(at_start: Array, later: Array) -> Array:
            return jnp.where(first.reshape(*first.shape, *[1] * (later.ndim - 2)), at_start, later)

        return SegmentState(
            encoded=jax.tree.map(choose, kept, settled),
            log_weight=choose(state.log_weight, log_weight),
            length=choose(state.length, settle(length)),
            fresh=self._fresh(params, observation),
            observation=observation,
            step=state.step + 1,
        )

    def _fresh(self, params: Params, observation: Array) -> Gaussian:
        """Belief of a segment that begins at an observation, [..., O] -> [..., L]."""
        batch = observation.shape[:-1]
        idle = self.space.encode(self.space.zeros(batch))
        start = self._apply(params, observation, idle, jnp.zeros(batch), method="embed")
        return self._apply(params, self.model.encoder.initial(batch), start, method="step").belief

    def _log_likelihood(
        self, params: Params, z: Array, *, observation: Array, action: Array, following: Array, reward: Array
    ) -> Array:
        """Of one transition under each latent, [E, ...] and z [E, K, L] -> [E, K], up to a constant."""

        def repeat(x: Array) -> Array:
            """The same for every hypothesis, [E, ...] -> [E, K, ...]."""
            return jnp.broadcast_to(x[:, None], (*z.shape[:2], *x.shape[1:]))

        observation, action, following, reward = map(repeat, (observation, action, following, reward))
        squared = self._squared_errors(params, z, observation, action, following, reward)
        scaled = [squared[name] / error**2 for name, error in self.errors(params).items()]
        return -0.5 * jnp.concatenate(scaled, axis=-1).sum(-1)

    def errors(self, params: Params) -> dict[str, Array]:
        """Deviation of what is predicted from what happens, in deviations: `reward` [1], `observation` [O]."""
        return {
            name: jnp.sqrt(LEAST_ERROR**2 + jnp.exp(2.0 * SPEED * jnp.atleast_1d(value)))
            for name, value in params["error"].items()
        }

    def _squared_errors(
        self, params: Params, z: Array, observation: Array, action: Array, following: Array, reward: Array
    ) -> dict[str, Array]:
        """Of the decoders, `reward` [..., 1] and, where the state is decoded, `observation` [..., O]."""
        predicted = self._apply(params, observation, action, following, z, method="decode_reward")
        squared = {"reward": ((predicted - reward) ** 2)[..., None]}
        if self.model.decode_state:
            predicted = self._apply(params, observation, action, z, method="decode_next")
            squared["observation"] = (predicted - following) ** 2
        return squared

    def _likeliest(self, state: SegmentState, values: Array) -> Array:
        """Values [E, K, ...] of the most probable hypothesis."""
        best = jnp.argmax(state.log_weight, axis=1)
        return jnp.take_along_axis(values, best.reshape(-1, *[1] * (values.ndim - 1)), axis=1)[:, 0]

    def summary(self, state: SegmentState) -> Gaussian:
        """Belief of the most probable hypothesis, [E, L]."""
        return jax.tree.map(lambda x: self._likeliest(state, x), state.encoded.belief)

    def features(self, state: SegmentState) -> Array:
        """Its mean and log-variance, [E, 2 L]."""
        return self.summary(state).features

    def boundary(self, state: SegmentState) -> Array:
        """Whether it began with the newest transition, and not as the first of the episode, [E]."""
        return (self._likeliest(state, state.length) == 1) & (state.step > 2)

    def encode(self, params: Params, data: Trajectories) -> SegmentState:
        """States at the steps of episodes, [H, B, ...], exactly as when acting: no label is known."""
        return Belief.encode(self, params, data)

    def encode_labelled(self, params: Params, data: Trajectories) -> BeliefState:
        """Beliefs at the steps of episodes with the labelled segments known, [H, B, ...]."""
        nothing = self.model.encoder.initial((data.reward.shape[1],))
        began = elbo.boundary_labels(data.session, "evidence") > 0

        def step(state: BeliefState, x: tuple[Array, Array]) -> tuple[BeliefState, BeliefState]:
            gates, began = x
            state = jax.tree.map(lambda a, b: jnp.where(began.reshape(-1, *[1] * (a.ndim - 1)), a, b), nothing, state)
            state = self._apply(params, state, gates, method="step")
            return state, state

        return jax.lax.scan(step, nothing, (self.embedded(params, data), began))[1]

    def loss(self, params: Params, data: Trajectories, key: Array, hyper: VAEConfig) -> tuple[Array, dict[str, Array]]:
        """VariBAD's objective in each segment; q_t describes the segment of the newest transition.

        The belief that a later segment begins with, without transitions, has to predict its first: that is what the
        filter asks of it. Args and returns are those of `LatentBelief.loss`.
        """

        def delay(x: Array) -> Array:
            """That of the newest transition, which led to the step, [H, B]."""
            return jnp.concatenate([x[:1], x[:-1]])

        key, begin_key = jax.random.split(key)
        belief = self.encode_labelled(params, data).belief
        session = jnp.where(data.valid, data.session, -1)  # after the end is a session of its own
        bounds = jax.tree.map(delay, elbo.session_bounds(session))
        terms = self._reconstruction(params, data, belief, bounds, key=key, hyper=hyper)
        begins = self._first_transitions(params, data, begin_key)
        terms = {name: value + begins.get(name, 0.0) for name, value in terms.items()}
        loss = hyper.reward_weight * terms["reward_error"]
        if self.model.decode_state:
            loss += hyper.state_weight * terms["state_error"]
        began = elbo.session_bounds(delay(session)).first
        prior = elbo.session_prior(belief, began, None)
        terms["kl"] = masked.mean(elbo.kl_to_prior(belief, prior, began, target="previous_belief"), data.valid)
        terms["kl"] += begins["kl"]
        loss += hyper.kl_weight * terms["kl"]
        surprise, terms["reward_deviation"] = self._surprise(params, data, belief)
        return loss + SHARE * surprise, {"loss": loss, **terms}

    def _first_transitions(self, params: Params, data: Trajectories, key: Array) -> dict[str, Array]:
        """Terms of the beliefs that later segments begin with, summed and divided by the number of valid steps."""
        begins = jnp.concatenate([jnp.zeros_like(data.valid[:1]), data.session[1:] != data.session[:-1]]) & data.valid
        fresh = self._fresh(params, data.observation[:-1])
        squared = self._squared_errors(
            params,
            fresh.sample(key),
            data.observation[:-1],
            self.space.encode(data.action),
            data.observation[1:],
            data.reward,
        )
        terms = {"kl": elbo.kl(fresh, Gaussian.standard(fresh.shape)), "reward_error": 0.5 * squared["reward"].sum(-1)}
        if "observation" in squared:
            terms["state_error"] = 0.5 * squared["observation"].sum(-1)
        return {name: masked.total(value, begins) / data.valid.sum() for name, value in terms.items()}

    def _surprise(self, params: Params, data: Trajectories, belief: Gaussian) -> tuple[Array, Array]:
        """Negative log-likelihood of transitions given the segment before them, whose gradient moves `errors` alone.

        It is least where these are the deviations of what the filter compares. Returns that of the reward, too.
        """
        squared = self._squared_errors(
            params,
            belief.mean,
            data.observation[:-1],
            self.space.encode(data.action),
            data.observation[1:],
            data.reward,
        )
        squared = jax.lax.stop_gradient(squared)
        goes_on = data.valid[1:] & (data.session[1:] == data.session[:-1])
        errors = self.errors(params)
        surprise = [0.5 * squared[name] / error**2 + jnp.log(error) for name, error in errors.items()]
        return masked.mean(jnp.concatenate(surprise, axis=-1).sum(-1)[1:], goes_on), errors["reward"][0]
