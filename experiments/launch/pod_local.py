"""A pod on this machine: the processes of one run, each with devices of its own.

python -m experiments.launch.pod_local --hosts 2 --devices 4 -- --env gridworld --out runs/pod
"""

import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass

from dynamite_envs.errors import UserError
from dynamite_jax.errors import one_line_errors, parse
from dynamite_jax.runtime.interruption import EXIT_CODE
from experiments.launch import split


@dataclass(frozen=True)
class Arguments:
    """Train in processes on this machine, as on hosts of a pod. What follows `--` goes to `dynamite-jax train`."""

    hosts: int = 2
    """Processes."""
    devices: int = 4
    """CPU devices of each."""
    dry_run: bool = False
    """Print the commands and start none."""


def commands(hosts: int, port: int, train: list[str]) -> list[list[str]]:
    """The command of each process."""
    job = ["--coordinator", f"localhost:{port}", "--processes", str(hosts)]
    start = [sys.executable, "-m", "dynamite_jax.train", *train, *job]
    return [[*start, "--process", str(host)] for host in range(hosts)]


def run(lines: list[list[str]], devices: int) -> int:
    """Run the processes to their end, and pass signals on to them.

    One that fails takes the others with it, since they would wait for it; nothing that is kept is lost by that.

    Returns:
        The exit code of the process that failed first, 75 where the run was asked to stop, else 0.
    """
    started: list[subprocess.Popen] = []

    def pass_on(number: int, _: object) -> None:
        for process in started:
            process.send_signal(number)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, pass_on)
    environment = os.environ | {"JAX_NUM_CPU_DEVICES": str(devices)}
    for line in lines:
        # In a session of its own, or else the keyboard would interrupt it once, and this process once more.
        started.append(subprocess.Popen(line, env=environment, start_new_session=True))
    while True:
        ended = [code for process in started if (code := process.poll()) is not None]
        if failed := [code for code in ended if code not in (0, EXIT_CODE)]:
            for process in started:
                process.kill()
            return failed[0] if failed[0] > 0 else 128 - failed[0]
        if len(ended) == len(started):
            return max(ended)
        time.sleep(0.05)


@one_line_errors
def main() -> None:
    """Start the processes, wait for them, and end as they do."""
    own, train = split(sys.argv[1:])
    arguments = parse(Arguments, own)
    for name in ("hosts", "devices"):
        if getattr(arguments, name) < 1:
            raise UserError(f"{name} is {getattr(arguments, name)}; it must be at least 1")
    with socket.create_server(("localhost", 0)) as free:
        port = free.getsockname()[1]
    lines = commands(arguments.hosts, port, train)
    if arguments.dry_run:
        for line in lines:
            print(f"JAX_NUM_CPU_DEVICES={arguments.devices} {shlex.join(line)}")
        return
    raise SystemExit(run(lines, arguments.devices))


if __name__ == "__main__":
    main()
