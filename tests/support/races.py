"""Processes that race for one run folder, in pairs."""

import os
import subprocess
import sys
from pathlib import Path

_RACE = """
import errno, os, sys, time
from pathlib import Path
from dynamite_jax.config import Config
from dynamite_jax.runtime import lock, run_folder
root, rounds, resume = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "resume"
config = Config()
if sys.argv[4] == "no locks":
    def refuse(file):
        raise OSError(errno.ENOLCK, "No locks available")
    lock._lock = refuse

def race(folder, start):
    while time.monotonic() < start:
        pass
    try:
        with run_folder.claimed(folder, config, resume):
            outcome = "claimed"
            time.sleep(0.3)
    except ValueError as error:
        outcome = f"refused {error}"
    os.write(1, f"{folder.name} {outcome}\\n".encode())
    os._exit(0)

for number in range(rounds):
    folder = root / str(number)
    if resume:
        with run_folder.claimed(folder, config, False):
            pass
    start, racers = time.monotonic() + 0.05, []
    for _ in range(2):
        racers.append(os.fork())
        if not racers[-1]:
            race(folder, start)
    for racer in racers:
        os.waitpid(racer, 0)
"""

CAN_RACE = hasattr(os, "fork")


def outcomes(root: Path, rounds: int, how: str, locks: str) -> list[list[str]]:
    """What became of the two processes of each round: `claimed`, or `refused` and why.

    Args:
        root: an empty folder.
        rounds: number of folders that are raced for.
        how: `new` runs, or `resume`.
        locks: whether the file system has them: `locks`, or `no locks`.
    """
    line = [sys.executable, "-W", "ignore", "-c", _RACE, str(root), str(rounds), how, locks]
    process = subprocess.run(line, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    words = [line.split(maxsplit=1) for line in process.stdout.splitlines()]
    assert len(words) == 2 * rounds
    return [sorted(outcome for folder, outcome in words if folder == str(number)) for number in range(rounds)]
