"""A run on Kubernetes: a JobSet of one job, a pod on each host, in a queue of Kueue where one is named.

python -m experiments.launch.gke --name ring --image REGISTRY/dynamite --hosts 4 --tpu tpu-v6e-slice --topology 4x4 \
    --claim shared --out /shared/ring --queue team -- --env gridworld_ring8 --seeds 1024

A pod that is asked to stop keeps its seeds and ends with exit code 75; the JobSet then starts all pods again, and they
go on. What would fail again ends it: bad input, and what is not finite.
"""

import json
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from dynamite_envs.errors import UserError
from dynamite_jax.errors import one_line_errors, parse
from dynamite_jax.runtime import loop
from experiments.launch import split

SHARED = PurePosixPath("/shared")
"""Where the volume of `claim` is mounted."""
JOB = "host"
PORT = 1234
FAILED = (2, loop.EXIT_CODE)
"""Exit codes that a second try would end with as well: of bad input, and of what is not finite."""
NAME = re.compile(r"[a-z]([-a-z0-9]{0,38}[a-z0-9])?")  # the names of pods, which are longer, end at 63 characters
CREATE = ("kubectl", "create", "-f", "-")
TRAIN = 'if [ -e "$OUT/config.json" ]; then set -- "$@" --resume; fi; exec dynamite-jax train --out "$OUT" "$@"'
SEVERAL = '--coordinator "$COORDINATOR" --processes "$PROCESSES" --process "$JOB_COMPLETION_INDEX"'


@dataclass(frozen=True)
class Arguments:
    """Start a run as a JobSet, by `kubectl`. What follows `--` goes to `dynamite-jax train`."""

    name: str
    """Of the JobSet: small letters, digits and hyphens."""
    image: str
    """Container in which the project is installed, with the extra for the accelerator."""
    claim: str
    """PersistentVolumeClaim that all pods can write; it is mounted at /shared."""
    out: PurePosixPath
    """Run folder, under /shared."""
    hosts: int = 1
    """Pods; for a TPU slice its number of hosts."""
    tpu: str | None = None
    """Type of TPU, the label cloud.google.com/gke-tpu-accelerator of its nodes; with `topology`."""
    topology: str | None = None
    """Chips of the slice, such as 4x4."""
    chips: int = 4
    """TPU chips of a host."""
    gpus: int = 0
    """NVIDIA GPUs of a host."""
    queue: str | None = None
    """LocalQueue of Kueue; without one the pods start as soon as there is room."""
    grace_s: int = 120
    """Seconds from SIGTERM to SIGKILL; a chunk of training must take less."""
    restarts: int = 100
    """How often the run may go on after it was asked to stop, or has lost a host."""
    dry_run: bool = False
    """Print manifest and command, and start nothing."""


def check(arguments: Arguments) -> None:
    """Refuse what the cluster would.

    Raises:
        UserError: names the argument.
    """
    if not NAME.fullmatch(arguments.name):
        rule = "at most 40 small letters, digits and hyphens, a letter first"
        raise UserError(f"name is {arguments.name!r}; it must be {rule}")
    if SHARED not in arguments.out.parents or ".." in arguments.out.parts:
        raise UserError(f"out is {str(arguments.out)!r}; it must be a folder in {SHARED}, where `claim` is mounted")
    if bool(arguments.tpu) == bool(arguments.gpus):
        raise UserError(f"tpu is {arguments.tpu!r} and gpus is {arguments.gpus}; one of them must be set")
    if bool(arguments.tpu) != bool(arguments.topology):
        raise UserError(f"topology is {arguments.topology!r}; it goes together with tpu, {arguments.tpu!r}")
    for name, least in (("hosts", 1), ("chips", 1), ("gpus", 0), ("grace_s", 1), ("restarts", 0)):
        if getattr(arguments, name) < least:
            raise UserError(f"{name} is {getattr(arguments, name)}; it must be {least} or more")


def manifest(arguments: Arguments, train: list[str]) -> dict[str, Any]:
    """The JobSet, of API version jobset.x-k8s.io/v1alpha2."""
    names = {"OUT": str(arguments.out)}
    script = TRAIN
    if arguments.hosts > 1:
        names["COORDINATOR"] = f"{arguments.name}-{JOB}-0-0.{arguments.name}:{PORT}"
        names["PROCESSES"] = str(arguments.hosts)
        script = f"{TRAIN} {SEVERAL}"
    resource = "google.com/tpu" if arguments.tpu else "nvidia.com/gpu"
    container: dict[str, Any] = {
        "name": "train",
        "image": arguments.image,
        "command": ["sh", "-c", script, "train"],
        "args": [word.replace("$(", "$$(") for word in train],  # or Kubernetes would put in what it names
        "env": [{"name": name, "value": value} for name, value in names.items()],
        "ports": [{"containerPort": PORT}],
        "resources": {"limits": {resource: arguments.chips if arguments.tpu else arguments.gpus}},
        "volumeMounts": [{"name": "shared", "mountPath": str(SHARED)}],
    }
    pod: dict[str, Any] = {
        "restartPolicy": "Never",
        "shareProcessNamespace": True,  # as process 1 it would not get a SIGTERM before it asks for it
        "terminationGracePeriodSeconds": arguments.grace_s,
        "containers": [container],
        "volumes": [{"name": "shared", "persistentVolumeClaim": {"claimName": arguments.claim}}],
    }
    if arguments.tpu:
        pod["nodeSelector"] = {
            "cloud.google.com/gke-tpu-accelerator": arguments.tpu,
            "cloud.google.com/gke-tpu-topology": arguments.topology,
        }
    job = {
        "parallelism": arguments.hosts,
        "completions": arguments.hosts,
        "completionMode": "Indexed",  # a number for each pod, which is that of its process
        "backoffLimit": 0,  # one pod alone can't start again: the others have lost it
        "podFailurePolicy": {
            "rules": [
                {
                    "action": "FailJob",
                    "onExitCodes": {"containerName": "train", "operator": "In", "values": list(FAILED)},
                }
            ]
        },
        "template": {"spec": pod},
    }
    metadata: dict[str, Any] = {"name": arguments.name}
    if arguments.queue:
        metadata["labels"] = {"kueue.x-k8s.io/queue-name": arguments.queue}
    return {
        "apiVersion": "jobset.x-k8s.io/v1alpha2",
        "kind": "JobSet",
        "metadata": metadata,
        "spec": {
            "network": {"enableDNSHostnames": True},
            "failurePolicy": {
                "maxRestarts": arguments.restarts,
                "rules": [
                    {"name": "fails-again", "action": "FailJobSet", "onJobFailureReasons": ["PodFailurePolicy"]},
                ],
            },
            "replicatedJobs": [{"name": JOB, "replicas": 1, "template": {"spec": job}}],
        },
    }


@one_line_errors
def main() -> None:
    """Write the manifest and hand it to the cluster."""
    own, train = split(sys.argv[1:])
    arguments = parse(Arguments, own)
    check(arguments)
    text = json.dumps(manifest(arguments, train), indent=2)
    if arguments.dry_run:
        print(f"{shlex.join(CREATE)} <<'EOF'\n{text}\nEOF")
        return
    try:
        process = subprocess.run(CREATE, input=text, text=True)
    except FileNotFoundError:
        raise UserError(f"{CREATE[0]} is not installed; --dry-run prints what it would be given") from None
    raise SystemExit(process.returncode)


if __name__ == "__main__":
    main()
