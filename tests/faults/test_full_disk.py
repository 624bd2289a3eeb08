"""A disk that is full ends a run with one line, and the run goes on once there is room."""

import json
import os
import re
import subprocess
import sys

import pytest

FLAGS = "--env probe_match --env-options horizon=20 --seeds 1 --num-envs 8 --chunk 5 --steps 80000 --eval-episodes 64"
FLAGS += " --checkpoint-every 3 --ppo.minibatches 2 --network.hidden 8 --vae.minibatches 2"
UNSHARE = ["unshare", "--mount"] + ["--map-root-user"] * (os.name != "nt" and os.getuid() != 0)
MOUNTED = """
mkdir disk && mount -t tmpfs -o size={size} tmpfs disk || exit 99
{command} {first}; echo $? > code
mount -o remount,size=4m disk
{command} --no-tensorboard --resume || exit 98
cp disk/run/summary.json .
"""
LIMITED = """
mkdir disk
(trap '' XFSZ; ulimit -f 20; {command} {first}); echo $? > code
{command} --no-tensorboard --resume || exit 98
cp disk/run/summary.json .
"""


def shell(script, folder):
    """Where it may mount: in a mount namespace of its own."""
    return subprocess.run([*UNSHARE, "sh", "-c", script], cwd=folder, capture_output=True, text=True, timeout=400)


@pytest.mark.parametrize(
    "size, first", [pytest.param("424k", "--no-tensorboard", marks=pytest.mark.faults), ("150k", "--tensorboard")]
)
def test_a_run_goes_on_once_there_is_room(size, first, tmp_path):
    environment = f"env PYTHONPATH={os.pathsep.join(sys.path)}"
    command = f"{environment} {sys.executable} -m dynamite_jax.train {FLAGS} --out disk/run"
    process = shell(MOUNTED.format(size=size, command=command, first=first), tmp_path)
    if not (tmp_path / "code").exists():  # mounting is refused: a limit on the size of files
        script = LIMITED.format(command=command, first=first)
        process = subprocess.run(["sh", "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=400)
    assert process.returncode == 0, process.stderr
    assert (tmp_path / "code").read_text() == "2\n", process.stderr
    # Threads of others may print at the same time, so that it need not begin its line.
    causes = re.findall(r"error: out is '[^']*disk/run[^']*', which can't be written: ([\w ]+)", process.stderr)
    assert causes in (["No space left on device"], ["File too large"]), process.stderr
    through = f"{command} --no-tensorboard"
    subprocess.run(["sh", "-c", through.replace("disk/run", "through")], cwd=tmp_path, check=True, capture_output=True)
    a, b = (json.loads((tmp_path / name).read_text()) for name in ("summary.json", "through/summary.json"))
    assert a["eval"] == b["eval"]
