"""The gridworld and the half-cheetah of `envs`, in NumPy and C MuJoCo, as Gymnasium's vector environments.

Here nothing compiles environments together, so they are stepped in turn, or side by side in worker processes. Each
numbers its sessions in `info["session"]`, the session under which the step was made: a label for losses.
"""

import contextlib
import inspect
import multiprocessing
from abc import ABC, abstractmethod
from collections.abc import Callable
from multiprocessing import shared_memory
from pathlib import Path
from typing import Any

import gymnasium
import mujoco
import numpy as np
from gymnasium import spaces

from dynamite_envs.errors import UserError

ASSETS = Path(__file__).parents[3] / "envs" / "dynamite_envs" / "assets"
MOVES = np.array([(0, 0), (0, 1), (1, 0), (0, -1), (-1, 0)])

Step = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]


class DLCMDP(gymnasium.vector.VectorEnv, ABC):
    """The session process that both share; all environments start and end together.

    Attributes:
        horizon: steps of an episode.
        p: probability that the context is redrawn after a step.
        context: hidden variable, one entry an environment.
        session: number of the session of the next step, [N].
    """

    decode_state = False

    def __init__(self, num_envs: int, horizon: int, p: float, observation_size: int, action_space: spaces.Space):
        self.num_envs, self.horizon, self.p = num_envs, horizon, p
        self.single_observation_space = spaces.Box(-np.inf, np.inf, (observation_size,), np.float32)
        self.single_action_space = action_space
        self.observation_space = gymnasium.vector.utils.batch_space(self.single_observation_space, num_envs)
        self.action_space = gymnasium.vector.utils.batch_space(action_space, num_envs)
        self.random = np.random.default_rng()

    @abstractmethod
    def first_contexts(self) -> np.ndarray:
        """Draw contexts at the start of an episode, [N]."""

    @abstractmethod
    def next_contexts(self, context: np.ndarray) -> np.ndarray:
        """Draw from the context kernel, [n] -> [n]."""

    @abstractmethod
    def reset_physics(self) -> None:
        """Draw physical states."""

    @abstractmethod
    def move(self, actions: np.ndarray) -> np.ndarray:
        """Step the physics under the contexts; the rewards, [N]."""

    @abstractmethod
    def observe(self) -> np.ndarray:
        """Observations, [N, O]."""

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        """Start an episode in every environment; observations [N, O]."""
        if seed is not None:
            self.random = np.random.default_rng(seed)
        self.session, self.elapsed_steps = np.zeros(self.num_envs, np.int32), 0
        self.context = self.first_contexts()
        self.reset_physics()
        return self.observe(), {"session": self.session}

    def step(self, actions: np.ndarray) -> Step:
        """Act under the contexts, [N] or [N, A], then let sessions end: observations [N, O], rewards and flags [N]."""
        reward = self.move(actions)
        self.elapsed_steps += 1
        info = {"session": self.session}
        switched = self.random.random(self.num_envs) < self.p
        if switched.any():
            self.context[switched] = self.next_contexts(self.context[switched])
            self.session = self.session + switched.astype(np.int32)
        truncated = np.full(self.num_envs, self.elapsed_steps >= self.horizon)
        return self.observe(), reward, np.zeros(self.num_envs, bool), truncated, info


class Gridworld(DLCMDP):
    """Two goals of which one pays, as `dynamite_envs.gridworld.env`; `agent` [N, 2] and `goals` [N, 2, 2] are cells."""

    def __init__(
        self,
        num_envs: int,
        p: float = 0.07,
        swap: float = 0.8,
        horizon: int = 60,
        cells: int = 5,
        active_reward: float = 1.0,
        inactive_reward: float = 0.0,
        step_reward: float = -0.1,
    ):
        super().__init__(num_envs, horizon, p, observation_size=6, action_space=spaces.Discrete(len(MOVES)))
        self.swap, self.cells = swap, cells
        self.rewards = np.array([step_reward, active_reward, inactive_reward], np.float32)

    def first_contexts(self) -> np.ndarray:
        return self.random.integers(0, 2, self.num_envs)

    def next_contexts(self, context: np.ndarray) -> np.ndarray:
        return np.where(self.random.random(len(context)) < self.swap, 1 - context, context)

    def reset_physics(self) -> None:
        n, count = self.cells**2, self.num_envs
        self.agent = self._xy(self.random.integers(0, n, count))
        first = self.random.integers(0, n, count)
        second = (first + 1 + self.random.integers(0, n - 1, count)) % n
        self.goals = np.stack([self._xy(first), self._xy(second)], axis=1)

    def move(self, actions: np.ndarray) -> np.ndarray:
        self.agent = np.clip(self.agent + MOVES[actions], 0, self.cells - 1)
        on_goal = np.all(self.goals == self.agent[:, None], axis=-1)
        which = np.arange(self.num_envs)
        return self.rewards[on_goal[which, self.context] + 2 * on_goal[which, 1 - self.context]]

    def observe(self) -> np.ndarray:
        observation = np.concatenate([self.agent, self.goals.reshape(-1, 4)], axis=1)
        return observation.astype(np.float32) / np.float32(self.cells - 1)

    def _xy(self, cell: np.ndarray) -> np.ndarray:
        return np.stack([cell // self.cells, cell % self.cells], axis=-1)


class HalfCheetahVel(DLCMDP):
    """Gymnasium's half-cheetah with a target speed, m/s, as `half_cheetah`; `data` holds a `MjData` each."""

    def __init__(
        self,
        num_envs: int,
        p: float = 0.02,
        horizon: int = 200,
        top_speed: float = 3.0,
        speed_deviation: float = 0.3,
        control_cost: float = 0.05,
        iid: bool = False,
    ):
        action_space = spaces.Box(-1.0, 1.0, (6,), np.float32)
        super().__init__(num_envs, horizon, p, observation_size=17, action_space=action_space)
        self.top_speed, self.speed_deviation, self.control_cost, self.iid = (
            top_speed,
            speed_deviation,
            control_cost,
            iid,
        )
        self.model = mujoco.MjModel.from_xml_path(str(ASSETS / "half_cheetah.xml"))  # pyright: ignore[reportAttributeAccessIssue]
        self.data = [mujoco.MjData(self.model) for _ in range(num_envs)]  # pyright: ignore[reportAttributeAccessIssue]
        # Views, so that a step looks nothing up.
        self.state = [(data.qpos, data.qvel, data.ctrl) for data in self.data]
        self.substeps = 5
        self.dt = self.substeps * self.model.opt.timestep

    def first_contexts(self) -> np.ndarray:
        return self.top_speed * self.random.random(self.num_envs)

    def next_contexts(self, context: np.ndarray) -> np.ndarray:
        if self.iid:
            return self.top_speed * self.random.random(len(context))
        speed = self.top_speed - context + self.speed_deviation * self.random.normal(size=len(context))
        return np.clip(speed, 0.0, self.top_speed)

    def reset_physics(self) -> None:
        for data, (qpos, qvel, _) in zip(self.data, self.state, strict=True):
            mujoco.mj_resetData(self.model, data)  # pyright: ignore[reportAttributeAccessIssue]
            qpos += self.random.uniform(-0.1, 0.1, self.model.nq)
            qvel[:] = 0.1 * self.random.normal(size=self.model.nv)

    def move(self, actions: np.ndarray) -> np.ndarray:
        actions = np.clip(actions, -1.0, 1.0)
        distance = np.empty(self.num_envs)
        for i, (data, (qpos, _, control)) in enumerate(zip(self.data, self.state, strict=True)):
            before = qpos[0]
            control[:] = actions[i]
            mujoco.mj_step(self.model, data, self.substeps)  # pyright: ignore[reportAttributeAccessIssue]
            distance[i] = qpos[0] - before
        cost = self.control_cost * np.square(actions).sum(axis=1)
        return (-np.abs(distance / self.dt - self.context) - cost).astype(np.float32)

    def observe(self) -> np.ndarray:
        observation = np.empty((self.num_envs, 17), np.float32)
        for row, (qpos, qvel, _) in zip(observation, self.state, strict=True):
            row[:8], row[8:] = qpos[1:], qvel
        return observation


MAKERS: dict[str, Callable[..., DLCMDP]] = {"gridworld": Gridworld, "halfcheetah_vel": HalfCheetahVel}


def make(name: str, num_envs: int, workers: int, **options: Any) -> Any:
    """Environments in this process, where there are no workers, or shared out evenly over worker processes.

    Raises:
        UserError: an unknown environment, or workers that don't divide the environments.
    """
    if name not in MAKERS:
        raise UserError(f"env is {name!r}; in PyTorch there are {', '.join(MAKERS)}")
    allowed = list(inspect.signature(MAKERS[name].__init__).parameters)[2:]
    if unknown := [option for option in options if option not in allowed]:
        raise UserError(f"env_options sets {unknown[0]}; in PyTorch {name} has {', '.join(allowed)}")
    if not workers:
        return MAKERS[name](num_envs, **options)
    if num_envs % workers:
        raise UserError(f"workers is {workers}; it must divide the number of environments, {num_envs}")
    return Workers(name, num_envs, workers, options=options)


class Workers(gymnasium.vector.VectorEnv):
    """Vector environments in worker processes, which exchange arrays in shared memory.

    Pipes only carry a byte, the command. `close` ends the processes.
    """

    def __init__(self, name: str, num_envs: int, workers: int, *, options: dict[str, Any]):
        single = MAKERS[name](1, **options)
        self.num_envs, self.horizon, self.decode_state = num_envs, single.horizon, single.decode_state
        self.single_observation_space = single.single_observation_space
        self.single_action_space = single.single_action_space
        self.observation_space = gymnasium.vector.utils.batch_space(self.single_observation_space, num_envs)
        self.action_space = gymnasium.vector.utils.batch_space(self.single_action_space, num_envs)
        layout = _layout(single, num_envs)
        size = sum(int(np.prod(shape)) * np.dtype(kind).itemsize for shape, kind in layout.values())
        self._memory = shared_memory.SharedMemory(create=True, size=size)
        self._arrays = _views(self._memory, layout)
        self._elapsed_steps = 0
        context = multiprocessing.get_context("spawn")  # a fork would copy PyTorch's threads
        self._pipes, self._processes = [], []
        for part in np.split(np.arange(num_envs), workers):
            pipe, worker_pipe = context.Pipe()
            arguments = (worker_pipe, name, options, self._memory.name, layout, slice(int(part[0]), int(part[-1]) + 1))
            process = context.Process(target=_work, args=arguments, daemon=True)
            process.start()
            self._pipes.append(pipe)
            self._processes.append(process)
        self._all(b"r")
        self._memory.unlink()  # all workers have attached to it; it is freed when the last of them ends

    def _all(self, command: bytes) -> None:
        for pipe in self._pipes:
            pipe.send_bytes(command)
        for pipe in self._pipes:
            pipe.recv_bytes()

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        """Start an episode in every environment; each worker draws from a stream of its own."""
        if seed is not None:
            streams = np.random.SeedSequence(seed).generate_state(len(self._pipes))
            for pipe, stream in zip(self._pipes, streams, strict=True):
                pipe.send_bytes(b"s" + str(stream).encode())
            for pipe in self._pipes:
                pipe.recv_bytes()
        else:
            self._all(b"r")
        self._elapsed_steps = 0
        return self._arrays["observation"], {"session": self._arrays["session"]}

    def step(self, actions: np.ndarray) -> Step:
        """Act in every environment. The arrays given back are overwritten by the next step."""
        self._arrays["action"][:] = actions
        self._all(b"a")
        self._elapsed_steps += 1
        terminated = np.zeros(self.num_envs, bool)
        info = {"session": self._arrays["session"]}
        truncated = np.full(self.num_envs, self._elapsed_steps >= self.horizon)
        return self._arrays["observation"], self._arrays["reward"], terminated, truncated, info

    def close(self, **kwargs: Any) -> None:
        """End the processes and free what they shared."""
        for pipe, process in zip(self._pipes, self._processes, strict=True):
            with contextlib.suppress(OSError):  # it has died, which the caller knows
                pipe.send_bytes(b"q")
            process.join()
        self._arrays = {}
        with contextlib.suppress(BufferError):  # an array is still in use
            self._memory.close()


def _layout(env: DLCMDP, num_envs: int) -> dict[str, tuple[tuple[int, ...], str]]:
    """Shapes and types of the arrays that are exchanged."""
    action = env.single_action_space
    return {
        "observation": ((num_envs, *(env.single_observation_space.shape or ())), "f4"),
        "action": ((num_envs, *(action.shape or ())), np.dtype(action.dtype).str),
        "reward": ((num_envs,), "f4"),
        "session": ((num_envs,), "i4"),
    }


def _views(memory: shared_memory.SharedMemory, layout: dict) -> dict[str, np.ndarray]:
    arrays, offset = {}, 0
    for name, (shape, kind) in layout.items():
        arrays[name] = np.ndarray(shape, kind, buffer=memory.buf, offset=offset)
        offset += arrays[name].nbytes
    return arrays


def _work(pipe: Any, name: str, options: dict, memory_name: str, layout: dict, part: slice) -> None:
    """A worker: waits for a command, steps or resets its part of the environments, answers."""
    memory = shared_memory.SharedMemory(memory_name)
    arrays = {key: array[part] for key, array in _views(memory, layout).items()}
    env = MAKERS[name](part.stop - part.start, **options)
    while (command := pipe.recv_bytes()) != b"q":
        if command == b"a":
            arrays["observation"][:], arrays["reward"][:], _, _, info = env.step(arrays["action"])
            arrays["session"][:] = info["session"]
        else:
            arrays["observation"][:], info = env.reset(seed=int(command[1:]) if command[1:] else None)
            arrays["session"][:] = info["session"]
        pipe.send_bytes(b".")
    del arrays
    memory.close()
