"""A policy written by hand that observes the itch: what ScratchItch pays an agent that need not learn.

python -m dynamite_envs.scratch_itch.reference
"""

import jax
import jax.numpy as jnp

from dynamite_envs.dlcmdp import Array, State
from dynamite_envs.scratch_itch.env import REACH, SUCCESS, Scratching, ScratchItch, itch_frame, jacobian, make

AWAY = 0.07  # from the limb on the way to another place, m
CLOSE = 0.06  # distance along the skin from the itch below which it rubs, m
DEPTH = 0.012  # by which rubbing aims below the skin, m
STROKE, PERIOD = 0.017, 8  # amplitude along the limb in m, and steps of a full stroke
GAIN = 4.0  # joints aim this many times beyond what would bring the tip there, since they lag behind their targets
DAMPING = 0.05  # of the inverse kinematics, m


def act(env: ScratchItch, state: State) -> Array:
    """Go before the itch, then press and rub along the limb.

    Args:
        env: the environment.
        state: of the environment, its context included.

    Returns:
        The action, [7].
    """
    physics: Scratching = state.physics
    itch, normal, along = itch_frame(physics.female, state.context)
    from_itch = physics.tip - itch
    beside = jnp.linalg.norm(from_itch - jnp.dot(from_itch, normal) * normal)
    stroke = STROKE * jnp.sin(2 * jnp.pi * state.step / PERIOD)
    aim = itch + jnp.where(beside < CLOSE, stroke * along - DEPTH * normal, AWAY * normal)
    moves = jacobian(env.simulator.pose(physics.qpos), physics.tip)
    with jax.default_matmul_precision("highest"):
        change = moves @ jnp.linalg.solve(moves.T @ moves + DAMPING**2 * jnp.eye(3), aim - physics.tip)
    return jnp.clip(GAIN * change / REACH, -1.0, 1.0)


def main() -> None:
    """Play no action, random actions and this policy, and print what they come to."""
    env, episodes = make(), 1024

    @jax.jit
    def returns(key: Array, random: Array, scripted: Array) -> tuple[Array, Array]:
        reset_key, key = jax.random.split(key)

        def step(state: State, key: Array) -> tuple[State, Array]:
            drawn = random * jax.random.uniform(key, (episodes, 7), minval=-1.0, maxval=1.0)
            action = jnp.where(scripted, jax.vmap(lambda state: act(env, state))(state), drawn)
            after = jax.vmap(env.step)(state, action)
            return after, after.reward

        start = jax.vmap(env.reset)(jax.random.split(reset_key, episodes))
        end, reward = jax.lax.scan(step, start, jax.random.split(key, env.horizon))
        return reward.sum(0), end.physics.scratches

    for name, random, scripted in (("no action", 0.0, False), ("random", 1.0, False), ("reference", 0.0, True)):
        paid, scratches = returns(jax.random.key(0), jnp.float32(random), jnp.array(scripted))
        low, high = jnp.quantile(paid, jnp.array([0.1, 0.9]))
        print(
            f"{name}: return {paid.mean():.1f}, 80 % between {low:.0f} and {high:.0f}; scratches"
            f" {scratches.mean():.2f}, {SUCCESS} or more in {(scratches >= SUCCESS).mean():.0%} of episodes"
        )


if __name__ == "__main__":
    main()
