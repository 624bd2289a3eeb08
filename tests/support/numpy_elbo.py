"""The belief model and its objective, from the formulas, in slow NumPy: one trajectory, one step, one term at a time.

A belief is a pair (mean [L], log-variance [L]), a session one index a step, parameters the nested dict of the networks
in float64. Nothing here is shared with the package.
"""

import numpy as np

LOG_VARIANCE_RANGE = (-10.0, 4.0)


def kl(q, p) -> float:
    """KL(q || p) of diagonal Gaussians, one latent number at a time."""
    total = 0.0
    for mean_q, log_variance_q, mean_p, log_variance_p in zip(*q, *p, strict=True):
        variance_q, variance_p = np.exp(log_variance_q), np.exp(log_variance_p)
        total += np.log(variance_p / variance_q) / 2 + (variance_q + (mean_q - mean_p) ** 2) / (2 * variance_p) - 1 / 2
    return total


def standard_normal(latent):
    return np.zeros(latent), np.zeros(latent)


def steps_of_session(session, t) -> list[int]:
    """S(t): the unbroken run of steps around t that share its session."""
    steps = [t]
    while steps[0] > 0 and session[steps[0] - 1] == session[t]:
        steps.insert(0, steps[0] - 1)
    while steps[-1] < len(session) - 1 and session[steps[-1] + 1] == session[t]:
        steps.append(steps[-1] + 1)
    return steps


def boundary_label(session, t, alignment) -> float:
    """Whether step t - 1 is of another session than the step before it (evidence), or step t is (action)."""
    newer, older = {"evidence": (t - 1, t - 2), "action": (t, t - 1)}[alignment]
    return float(older >= 0 and session[newer] != session[older])


def predicted_sessions(logits) -> list[int]:
    """Sessions of the steps when a boundary is wherever its predicted probability exceeds one half."""
    sessions = [0]
    for step in range(1, len(logits)):
        evidence_step = step + 1  # its reward is the evidence
        begins = evidence_step < len(logits) and 1 / (1 + np.exp(-logits[evidence_step])) > 0.5
        sessions.append(sessions[-1] + int(begins))
    return sessions


def session_prior(beliefs, session, t, dynamics):
    """p(z^i | z^{i-1}) of the session of t; standard normal for the first one and where there is no `dynamics`."""
    first = steps_of_session(session, t)[0]
    if first == 0 or dynamics is None:
        return standard_normal(len(beliefs[t][0]))
    return dynamics(beliefs[first])


def kl_to_prior(beliefs, session, t, dynamics, target) -> float:
    """KL term of step t: to the session's prior, or to the belief before it within the session."""
    if target == "previous_belief" and steps_of_session(session, t)[0] != t:
        return kl(beliefs[t], beliefs[t - 1])
    return kl(beliefs[t], session_prior(beliefs, session, t, dynamics))


def consistency(beliefs, session, t, ends) -> float:
    """How far the step from t to t + 1 leads away from the last belief of the session, one of `ends`."""
    if t + 1 not in steps_of_session(session, t):
        return 0.0
    end = ends[steps_of_session(session, t)[-1]]
    return max(kl(beliefs[t + 1], end) - kl(beliefs[t], end), 0.0)


def cross_entropy(logit, label) -> float:
    probability = 1 / (1 + np.exp(-logit))
    return -(label * np.log(probability) + (1 - label) * np.log(1 - probability))


def boundary_posterior(params, data, b, action, beliefs, t, hyper) -> float:
    """Probability of a boundary, which replaces the label: Bayes' rule on the reward of step t - 1.

    Either the reward is of the belief before it, or, after a switch with probability `boundary_rate`, of the prior of
    the next session; Gaussian of deviation `boundary_noise`.
    """
    if t < 2:
        return 0.0
    j = t - 1
    after = prior(params, beliefs[j]) if hyper.conditioning else standard_normal(len(beliefs[j][0]))
    joint = []
    for chance, (z, _) in ((hyper.boundary_rate, after), (1 - hyper.boundary_rate, beliefs[j])):
        inputs = np.concatenate([data.observation[j, b], action[j], data.observation[j + 1, b], z])
        error = mlp(params["reward_decoder"], inputs)[0] - data.reward[j, b]
        joint.append(chance * np.exp(-(error**2) / (2 * hyper.boundary_noise**2)))
    return joint[0] / sum(joint)


def dense(params, x):
    return x @ params["kernel"] + params.get("bias", 0.0)


def mlp(params, x, activation=lambda x: np.maximum(x, 0.0)):
    for layer in range(len(params) - 1):
        x = activation(dense(params[f"Dense_{layer}"], x))
    return dense(params[f"Dense_{len(params) - 1}"], x)


def gaussian(params, x):
    mean, log_variance = np.split(dense(params["Dense_0"], x), 2)
    return mean, np.clip(log_variance, *LOG_VARIANCE_RANGE)


def prior(params, belief):
    return gaussian(params["prior_head"], np.tanh(dense(params["prior_body"], np.concatenate(belief))))


def encode(params, observation, action, reward, start_action, conditioning, boundary_head, reset=False):
    """Beliefs and boundary logits of one trajectory: observation [H + 1, O], encoded action [H, A], reward [H].

    With `reset` the recurrent state of a step that predicts a boundary is made again, of nothing but that step and
    the belief before it.
    """

    def sigmoid(x):
        return 1 / (1 + np.exp(-x))

    params = params["encoder"]
    hidden = np.zeros(params["recurrent_gates"]["kernel"].shape[0])
    belief = previous = standard_normal(params["head"]["Dense_0"]["kernel"].shape[1] // 2)
    beliefs, logits = [], []
    for t in range(len(reward)):
        newest = (action[t - 1], reward[t - 1]) if t else (start_action, 0.0)
        embedded = np.maximum(dense(params["input"], np.concatenate([observation[t], newest[0], [newest[1]]])), 0.0)
        embedded = dense(params["input_gates"], embedded)

        def recur(hidden, previous, embedded=embedded):
            inputs = embedded
            if conditioning:
                inputs = inputs + dense(params["previous_gates"], np.concatenate(previous))
            r_in, u_in, n_in = np.split(inputs, 3)
            r_h, u_h, n_h = np.split(dense(params["recurrent_gates"], hidden), 3)
            forget, update = sigmoid(r_in + r_h), sigmoid(u_in + u_h)
            return (1 - update) * np.tanh(n_in + forget * n_h) + update * hidden

        hidden = recur(hidden, previous)
        logits.append(dense(params["boundary"], hidden)[0] if boundary_head else -np.inf)
        if boundary_head and sigmoid(logits[t]) > 0.5:
            previous = belief  # the one before this step, without evidence of the new session
            hidden = recur(np.zeros_like(hidden), previous) if reset else hidden
        belief = gaussian(params["head"], hidden)
        beliefs.append(belief)
    return beliefs, logits


def objective(params, data, noise, hyper, encode_action, decode_state, target_params=None) -> dict[str, float]:
    """Negative ELBO of all valid steps and all decoded terms, and its parts before they are weighted.

    A trajectory that ends early is a shorter one: what lies behind its end is cut off.

    Args:
        params: of all networks.
        data: `Trajectories` of arrays, [H(+1), B, ...].
        noise: standard normal numbers of the samples of z, [H, B, L].
        hyper: `VAEConfig`.
        encode_action: network input of one action.
        decode_state: whether there is a next-state decoder.
        target_params: parameters of what is held fixed, if others: the ends of sessions that consistency measures
            against, and the posterior that boundaries are learnt from without labels.
    """
    batch = data.reward.shape[1]
    terms = dict.fromkeys(["reward_error", "state_error", "kl", "consistency", "boundary"], 0.0)
    dynamics = (lambda belief: prior(params, belief)) if hyper.conditioning else None
    start = encode_action(np.zeros_like(data.action[0, 0]))
    for b in range(batch):
        horizon = int(sum(data.valid[:, b]))
        observation, reward = data.observation[: horizon + 1, b], data.reward[:horizon, b]
        action = [encode_action(data.action[t, b]) for t in range(horizon)]
        history = (observation, action, reward, start, hyper.conditioning, hyper.boundary_head, hyper.reset_at_boundary)
        beliefs, logits = encode(params, *history)
        ends = encode(target_params or params, *history)[0]
        session = labels = list(data.session[:horizon, b])
        if hyper.boundaries == "predicted":
            session = predicted_sessions(logits)
        one_session = [0] * horizon
        covered = session if hyper.session_mask else one_session
        chained = session if hyper.conditioning else one_session
        for t in range(horizon):
            z = beliefs[t][0] + np.exp(beliefs[t][1]) ** 0.5 * noise[t, b]
            for j in steps_of_session(covered, t):
                s, a, following = observation[j], action[j], observation[j + 1]
                predicted = mlp(params["reward_decoder"], np.concatenate([s, a, following, z]))[0]
                terms["reward_error"] += (predicted - reward[j]) ** 2 / 2
                if decode_state:
                    predicted = s + mlp(params["state_decoder"], np.concatenate([s, a, z]))
                    terms["state_error"] += sum((predicted - following) ** 2) / 2
            terms["kl"] += kl_to_prior(beliefs, chained, t, dynamics, hyper.kl_target)
            terms["consistency"] += consistency(beliefs, session, t, ends)
            if hyper.boundary_head:
                if hyper.boundaries == "labels":
                    label = boundary_label(labels, t, hyper.boundary_alignment)
                else:
                    label = boundary_posterior(target_params or params, data, b, action, ends, t, hyper)
                terms["boundary"] += cross_entropy(logits[t], label)
    terms = {name: value / int(data.valid.sum()) for name, value in terms.items()}
    loss = hyper.reward_weight * terms["reward_error"] + hyper.kl_weight * terms["kl"]
    if decode_state:
        loss += hyper.state_weight * terms["state_error"]
    if hyper.consistency:
        loss += hyper.consistency_weight * terms["consistency"]
    if hyper.boundary_head:
        loss += hyper.boundary_weight * terms["boundary"]
    return {"loss": loss, **terms}
