"""The environment and the method of docs/extending.md, in files of a user's own, trained from the command line."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CODE = re.findall(r"^```python\n(.*?)^```", (ROOT / "docs" / "extending.md").read_text(), re.DOTALL | re.MULTILINE)
ENVIRONMENT, METHOD = CODE
TINY = "--seeds 1 --num-envs 8 --chunk 2 --steps 640 --eval-episodes 16 --ppo.minibatches 2 --vae.minibatches 2"


@pytest.mark.parametrize(("code", "limit"), [(ENVIRONMENT, 40), (METHOD, 60)], ids=["environment", "method"])
def test_it_is_short(code, limit):
    assert len(code.splitlines()) <= limit


@pytest.mark.parametrize(
    ("plugin", "code", "names"),
    [
        ("thermostat", ENVIRONMENT, "--env thermostat --method dynamite"),
        ("window", METHOD, "--env probe_match --method window"),
    ],
)
def test_it_trains_from_a_folder_of_its_own(plugin, code, names, tmp_path):
    (tmp_path / f"{plugin}.py").write_text(code)
    command = [
        sys.executable,
        "-m",
        "dynamite_jax.train",
        "--plugin",
        plugin,
        *names.split(),
        *TINY.split(),
        "--out",
        "run",
    ]
    process = subprocess.run(command, cwd=tmp_path, env=dict(os.environ), capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["env"] in names and plugin in summary["code"]["modules"]
