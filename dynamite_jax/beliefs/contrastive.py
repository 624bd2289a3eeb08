"""ContraBAR (Choshen and Tamar, 2023): a belief by contrastive predictive coding.

A recurrent state is a sufficient belief if, with the actions to come, it distinguishes the true future from others. For
each of the next steps a classifier gets a prediction from the state, and either the true outcome or another one.
Look-ahead and number of negatives are those of the publication's code. Half of the negatives are outcomes of other
trajectories of the minibatch, as there. Where an observation tells trajectories apart, by goals that it shows, it takes
no belief to tell these from the truth; the other half are the true observation with the reward of another outcome.
"""

from dataclasses import dataclass

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from dynamite_jax.beliefs.history import HistoryBelief
from dynamite_jax.config import VAEConfig
from dynamite_jax.data import masked
from dynamite_jax.data.types import Array, Params, Trajectories
from dynamite_jax.networks.gru import GRU, gru_update

LOOK_AHEAD = 10
NEGATIVES = 15
CLASSIFIER = 32  # units of the classifier and of its inputs


class ContrastiveGRU(GRU):
    """A recurrent network over the history, one over the actions to come, and the classifier."""

    def setup(self):
        super().setup()
        self.action_gates = nn.Dense(3 * self.hidden)
        self.future_gates = nn.Dense(3 * self.hidden)
        self.observed = nn.Dense(CLASSIFIER)
        self.seen = nn.Dense(CLASSIFIER)
        self.predicted = nn.Dense(CLASSIFIER)
        self.score = nn.Dense(1)

    def look_ahead(self, hidden: Array, action: Array) -> Array:
        """The state after one more action, without an observation: [..., G], [..., A] -> [..., G]."""
        return gru_update(hidden, self.action_gates(action), self.future_gates(hidden))

    def encode_outcome(self, observation: Array, reward: Array) -> Array:
        """The classifier's input from s and the reward that came with it: [..., O], [...] -> [..., C]."""
        x = jnp.concatenate([observation, reward[..., None]], axis=-1)
        return self.seen(nn.relu(self.observed(x)))

    def predict(self, hidden: Array) -> Array:
        """The classifier's input from a prediction, [..., G] -> [..., C]."""
        return self.predicted(hidden)

    def classify(self, predicted: Array, outcome: Array) -> Array:
        """Logit that `outcome` is the true one, [..., C] twice -> [...]."""
        return self.score(nn.relu(predicted + outcome))[..., 0]

    def __call__(self, hidden: Array, observation: Array, action: Array, reward: Array) -> Array:
        """Touch every layer once; only `init` calls this."""
        hidden = super().__call__(hidden, observation, action, reward)
        self.classify(self.predict(self.look_ahead(hidden, action)), self.encode_outcome(observation, reward))
        return hidden


@dataclass(frozen=True)
class ContrastiveBelief(HistoryBelief):
    """Trained to distinguish the true future from others."""

    learns = True

    @staticmethod
    def make_network(hidden: int, embedding: int) -> nn.Module:
        """The memory, the look-ahead and the classifier."""
        return ContrastiveGRU(hidden, embedding)

    def loss(self, params: Params, data: Trajectories, key: Array, hyper: VAEConfig) -> tuple[Array, dict[str, Array]]:
        """Binary cross-entropy of the classifier, positives and negatives weighing the same.

        Args:
            params: of the network.
            data: episodes, [H(+1), B, ...], finite after their ends too.
            key: anchors and negatives.
            hyper: `elbo_terms` is the number of anchors of an episode, 0 takes every step.
        """
        step_key, key = jax.random.split(key)
        horizon, batch = data.reward.shape
        steps = jnp.arange(horizon)
        if hyper.elbo_terms:
            steps = jax.random.choice(step_key, horizon, (hyper.elbo_terms,), replace=False)
        ahead = steps[:, None] + jnp.arange(LOOK_AHEAD)  # [T, K], the steps whose actions and rewards are ahead
        length = data.valid.sum(0)  # of each episode, [B]
        exists = ahead[..., None] < length  # [T, K, B]
        ahead = jnp.minimum(ahead, horizon - 1)

        action = self.space.encode(data.action)[ahead]  # [T, K, B, A]

        def unroll(hidden: Array, action: Array) -> tuple[Array, Array]:
            hidden = self._apply(params, hidden, action, method="look_ahead")
            return hidden, hidden

        future = jax.lax.scan(unroll, self.encode(params, data)[steps], jnp.moveaxis(action, 1, 0))[1]  # [K, T, B, G]
        predicted = jnp.moveaxis(self._apply(params, future, method="predict"), 0, 1)  # [T, K, B, C]

        def draw_moves(key: Array) -> tuple[Array, Array]:
            """Steps and trajectories by which a negative lies away from the true outcome."""
            time_key, batch_key = jax.random.split(key)
            time = jax.random.randint(time_key, (), 0, horizon)
            return time, jax.random.randint(batch_key, (), 1, max(batch, 2))

        # The truth comes first, moved by nothing. Gathered are inputs: no gradient has to be scattered back.
        moves = jax.vmap(draw_moves)(jax.random.split(key, NEGATIVES))
        moves = jnp.stack([jnp.concatenate([jnp.zeros((1,), jnp.int32), x]) for x in moves])

        def moved(x: Array, moves: Array) -> Array:
            """What followed, from as many steps and trajectories away, none after an end: [1 + N, T, K, B, ...]."""
            time, trajectory = moves
            columns = ((jnp.arange(batch) - trajectory[:, None]) % batch)[:, None, None]
            return x[(ahead - time[:, None, None])[..., None] % length[columns], columns]

        relabelled = jnp.arange(NEGATIVES + 1) % 2 == 1
        observation = moved(data.observation[1:], jnp.where(relabelled, 0, moves))
        reward = moved(data.reward, moves)
        outcome = self._apply(params, observation, reward, method="encode_outcome")  # [1 + N, T, K, B, C]
        logits = self._apply(params, predicted, outcome, method="classify")
        true, false = logits[0], logits[1:]
        positive = masked.mean(optax.sigmoid_binary_cross_entropy(true, jnp.ones_like(true)), exists)
        negative = masked.mean(optax.sigmoid_binary_cross_entropy(false, jnp.zeros_like(false)).mean(0), exists)
        loss = (positive + negative) / 2.0
        return loss, {"loss": loss, "positive": positive, "negative": negative}
