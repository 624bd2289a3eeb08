"""Sections of a config: the numbers of belief, policy, learner, networks and physics. Nothing here needs JAX."""

import dataclasses
from typing import Any, Literal, Self


def _static(default: Any) -> Any:
    return dataclasses.field(default=default, metadata={"static": True})


@dataclasses.dataclass(frozen=True)
class _Hyperparameters:
    """A section whose fields are traced in the compiled step, unless their metadata says `static`."""

    def replace(self, **changes: Any) -> Self:
        """The same with some fields changed."""
        return dataclasses.replace(self, **changes)


@dataclasses.dataclass(frozen=True)
class VAEConfig(_Hyperparameters):
    """The belief model's objective and optimisation."""

    lr: float = 1e-3
    """Adam's step size."""
    anneal: float = 0.0
    """Final fraction of training over which the learning rate falls linearly to 0."""
    max_grad_norm: float = 1.0
    """Gradients are scaled down to this global norm."""
    average_rate: float = 1.0
    """Share of the newest weights in the running average of them that acts, taken at every meta-update: the policy sees
    a belief that changes slowly. At 1 the newest weights act."""
    reward_weight: float = 1.0
    """Weight of the reward reconstruction."""
    state_weight: float = 1.0
    """w_s: weight of the next-state reconstruction, in environments that decode the state."""
    kl_weight: float = 0.01
    """w_kl: weight of the KL to the prior."""
    consistency_weight: float = 0.001
    """beta: weight of session consistency."""
    boundary_weight: float = 1.0
    """w_d: weight of the boundary head's cross-entropy."""
    epochs: int = _static(1)
    """Passes over the trajectories of a meta-update."""
    minibatches: int = _static(8)
    """Minibatches of a pass; they divide the number of trajectories."""
    trajectories: int = _static(0)
    """Trajectories learnt from in a meta-update; 0 takes as many as there are environments."""
    elbo_terms: int = _static(0)
    """Steps t at which the reconstruction is evaluated; 0 takes every step."""
    decode_terms: int = _static(8)
    """Steps j decoded for each t, drawn from its session; 0 decodes the whole session."""
    buffer_episodes: int = _static(0)
    """Past episodes kept to learn from, beside the fresh ones; 0 keeps none."""
    posterior: Literal["filtered", "session"] = _static("filtered")
    """What reconstructs a session: the beliefs at its steps, or a posterior that has seen all of it, to which beliefs
    are drawn. With the latter each step decodes itself, once."""
    session_mask: bool = _static(True)
    """Reconstruct the session of t alone; off, the whole episode."""
    conditioning: bool = _static(True)
    """Encoder and prior receive the belief that ended the previous session; off, the KL term knows no sessions."""
    consistency: bool = _static(True)
    """Within a session the belief may only move toward its final belief."""
    boundary_head: bool = _static(True)
    """Predict session boundaries."""
    kl_target: Literal["latent_dynamics", "previous_belief"] = _static("latent_dynamics")
    """The prior of the KL term: that of the session, or the belief of the step before."""
    reset_at_boundary: bool = _static(False)
    """The recurrent state starts anew at predicted boundaries: only the belief of the last session is carried over."""
    boundaries: Literal["labels", "predicted"] = _static("labels")
    """Sessions in the losses: the environment's labels, or the model's own boundaries, learnt without labels."""
    boundary_rate: float = 0.05
    """Assumed switches a step, where boundaries are learnt without labels."""
    boundary_noise: float = 0.2
    """Assumed error of a reward's prediction in deviations of rewards, where boundaries are learnt without labels."""
    boundary_alignment: Literal["evidence", "action"] = _static("evidence")
    """What the boundary head predicts at t: that the newest reward, or that the next step, is of a new session."""


@dataclasses.dataclass(frozen=True)
class PPOConfig(_Hyperparameters):
    """The policy's objective and optimisation."""

    lr: float = 7e-4
    """Adam's step size at the start."""
    anneal: float = 0.0
    """Final fraction of training over which learning rate and entropy weight fall linearly to 0."""
    delay: float = 0.0
    """First fraction of training in which a belief that learns by itself does, and the policy does not."""
    clip: float = 0.2
    """Clipping range of the probability ratio, and of the value in the critic's unit."""
    gamma: float = 0.97
    """Discount, once it has risen."""
    gamma_start: float = 0.8
    """Discount at the start, where it rises."""
    gamma_rise: float = 0.0
    """First fraction of training over which the discount rises linearly from gamma_start to gamma; at 0 it does not."""
    gae_lambda: float = 0.95
    """Mixing of n-step advantage estimates."""
    entropy: float = 0.03
    """Weight of the entropy bonus at the start."""
    value_weight: float = 0.5
    """Weight of the value error."""
    through_encoder: bool = _static(False)
    """The loss of the policy trains the encoder of a belief that learns by itself, too."""
    max_grad_norm: float = 0.5
    """Gradients are scaled down to this global norm."""
    normalise_returns: bool = _static(True)
    """The critic's unit: deviations of returns from their running mean; off, the unit of rewards."""
    min_return_deviation: float = 0.1
    """The critic's unit is at least this, in the unit of rewards: the first reward after long without any is no huge
    target. Lower it where all returns are smaller."""
    epochs: int = _static(4)
    """Passes over the steps of a meta-update."""
    minibatches: int = _static(16)
    """Minibatches of a pass; they divide the number of what is shuffled."""
    shuffle: Literal["episodes", "steps"] = _static("episodes")
    """Units of a minibatch: whole episodes, or steps, which a recurrent loss of the policy can't take."""


@dataclasses.dataclass(frozen=True)
class OfflineConfig(_Hyperparameters):
    """Learning from recorded episodes: whose, and how policy and critics do. The belief learns by `VAEConfig`."""

    data: str = _static("")
    """Folder of the episodes, as `collect` writes it."""
    digest: str = _static("")
    """Digest of the episodes, filled in when the run begins: it does not go on with others."""
    learner: Literal["iql", "td3bc", "cql", "bc"] = _static("iql")
    """Implicit Q-learning, TD3 with behaviour cloning (continuous actions alone), conservative Q-learning, or behaviour
    cloning alone."""
    relabel: float = 0.0
    """Share of the drawn episodes that are learnt from as if other contexts had held in them."""
    lr: float = 3e-4
    """Adam's step size of policy and value at the start."""
    critic_lr: float = 3e-4
    """Adam's step size of the critics."""
    anneal: float = 1.0
    """Final fraction of training over which `lr` falls linearly to 0."""
    max_grad_norm: float = 10.0
    """Gradients of policy and value, and those of the critics, are scaled down to this global norm."""
    gamma: float = 0.97
    """Discount."""
    polyak: float = 0.005
    """Share of the newest critics in the running average that their targets are made of."""
    critics: int = _static(2)
    """Critics; the least of them is believed."""
    epochs: int = _static(1)
    """Passes over the steps of an update."""
    minibatches: int = _static(32)
    """Minibatches of a pass; they divide num_envs x horizon."""
    expectile: float = 0.7
    """IQL: which expectile of the critics over recorded actions the value is."""
    temperature: float = 3.0
    """IQL: recorded actions are imitated by the exponential of this times their advantage, in deviations of returns."""
    max_weight: float = 100.0
    """IQL: that exponential is at most this."""
    bc_weight: float = 2.5
    """TD3+BC: weight of the critic against the distance to recorded actions."""
    noise: float = 0.2
    """TD3+BC: deviation of the noise on actions that targets are made with."""
    cql_weight: float = 1.0
    """CQL: weight of what critics think better of other actions."""
    entropy: float = 0.01
    """CQL: weight of the policy's entropy."""
    watched_episodes: int = _static(64)
    """Episodes played after every chunk to show the return; nothing learns from them."""


@dataclasses.dataclass(frozen=True)
class NetworkConfig:
    """Sizes of the networks."""

    encoder: Literal["gru", "transformer"] = "gru"
    """What makes a belief of the history; the transformer is for methods whose belief is a latent of the episode."""
    latent: int = 5
    """Numbers in the latent z."""
    hidden: int = 64
    """Units of the encoder's recurrent state, or of a token of the transformer."""
    embedding: int = 32
    """Units of the recurrent encoder's input layer."""
    layers: int = 2
    """Layers of the transformer."""
    heads: int = 4
    """Attention heads of the transformer; they divide `hidden`."""
    decoder_hidden: tuple[int, ...] = (32, 32)
    """Hidden layers of the decoders."""
    policy_hidden: tuple[int, ...] = (128, 128)
    """Hidden layers of the policy."""
    value_hidden: tuple[int, ...] = (64, 64)
    """Hidden layers of the critic."""
    activation: Literal["tanh", "relu", "silu"] = "tanh"
    """Activation of policy and critic."""
    action_deviation: float = 1.0
    """Standard deviation of continuous actions at the start, as far as the bounds of it allow."""
    min_action_deviation: float = 1e-3
    """Continuous actions are drawn with at least this standard deviation; they are executed within -1 and 1."""
    max_action_deviation: float = 10.0
    """And with at most this; from 3 on training warns that the policy is noise."""
    feature_clip: float = 5.0
    """Policy features and inputs of the belief are normalised and clipped to this many deviations."""


@dataclasses.dataclass(frozen=True)
class PhysicsConfig:
    """How MuJoCo's physics is computed, in environments that have it."""

    impl: Literal["auto", "c", "jax", "warp"] = "auto"
    """C MuJoCo (`c`, on CPUs), MJX (`jax`), or Warp (`warp`, on NVIDIA GPUs, not reproducible bit for bit); `auto` is
    `c` on CPUs and `jax` elsewhere, and the config of a run says which it was."""
