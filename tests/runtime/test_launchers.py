"""Scripts that start runs on clusters: the commands that they give, and when they give them."""

import json
import os
import re
import shlex
import subprocess
import sys

import jsonschema
import pytest

from refusals import CHECKOUT

LAUNCH = CHECKOUT / "experiments" / "launch"
STAND_IN = """#!/usr/bin/env bash
printf '%q ' "$(basename "$0")" "$@" >> "$CALLS"; echo >> "$CALLS"
if [[ $(basename "$0") == kubectl ]]; then cat > "$CALLS.stdin"; fi
exit "${CODE:-0}"
"""


@pytest.fixture
def launch(tmp_path):
    """Run a script; its exit code, the calls that it made of a cluster's programs, and what it printed."""
    programs, calls = tmp_path / "programs", tmp_path / "calls"
    programs.mkdir()
    for name in ("srun", "scontrol", "gcloud", "kubectl"):
        (programs / name).write_text(STAND_IN)
        (programs / name).chmod(0o755)

    def run(script, *flags, **variables):
        calls.unlink(missing_ok=True)
        environment = {"PATH": f"{programs}:{os.environ['PATH']}", "CALLS": str(calls), **variables}
        line = ["bash", str(LAUNCH / script), *flags]
        if script.endswith(".py"):
            line = [sys.executable, "-m", f"experiments.launch.{script.removesuffix('.py')}", *flags]
        process = subprocess.run(line, capture_output=True, text=True, env=environment, cwd=CHECKOUT)
        made = [shlex.split(call) for call in calls.read_text().splitlines()] if calls.exists() else []
        return process.returncode, made, process.stdout + process.stderr

    return run


TRAIN = ["srun", "--kill-on-bad-exit=0", "dynamite-jax", "train", "--distributed", "--out"]


def test_slurm_starts_one_run_on_all_nodes(launch, tmp_path):
    out = str(tmp_path / "my run")
    code, calls, _ = launch("slurm.sh", "--seeds", "8", OUT=out, SLURM_JOB_ID="7")
    assert (code, calls) == (0, [[*TRAIN, out, "--seeds", "8"]])


@pytest.mark.parametrize("stopped", [75, 143])
def test_slurm_queues_a_run_again_that_was_asked_to_stop_and_goes_on_with_it(launch, tmp_path, stopped):
    (tmp_path / "config.json").touch()
    code, calls, _ = launch("slurm.sh", OUT=str(tmp_path), SLURM_JOB_ID="7", CODE=str(stopped))
    assert code == stopped
    assert calls == [[*TRAIN, str(tmp_path), "--resume"], ["scontrol", "requeue", "7"]]


@pytest.mark.parametrize("count, again", [("0", True), ("9", True), ("10", False)])
def test_slurm_does_not_queue_for_ever_what_never_trains(launch, tmp_path, count, again):
    names = {"OUT": str(tmp_path), "SLURM_JOB_ID": "7", "SLURM_RESTART_COUNT": count}
    assert (len(launch("slurm.sh", CODE="143", **names)[1]) == 2) == again
    assert len(launch("slurm.sh", CODE="75", **names)[1]) == 2


@pytest.mark.parametrize("failure", ["1", "2", "3", "130"])
def test_slurm_does_not_queue_again_what_failed(launch, tmp_path, failure):
    code, calls, _ = launch("slurm.sh", OUT=str(tmp_path), SLURM_JOB_ID="7", CODE=failure)
    assert code == int(failure) and len(calls) == 1


def test_tasks_of_an_array_are_runs_of_their_own(launch, tmp_path):
    (tmp_path / "3").mkdir()
    (tmp_path / "3" / "config.json").touch()
    names = {"SLURM_ARRAY_JOB_ID": "7", "OUT": str(tmp_path)}
    train = ["srun", "--kill-on-bad-exit=0", "dynamite-jax", "train", "--seed"]
    _, calls, _ = launch("slurm.sh", "--env", "reacher", SLURM_ARRAY_TASK_ID="2", **names)
    assert calls == [[*train, "2", "--out", str(tmp_path / "2"), "--env", "reacher"]]
    _, calls, _ = launch("slurm.sh", SLURM_ARRAY_TASK_ID="3", CODE="75", **names)
    assert calls == [[*train, "3", "--out", str(tmp_path / "3"), "--resume"], ["scontrol", "requeue", "7_3"]]


@pytest.mark.parametrize("resumed", [False, True])
def test_a_pod_gets_the_command_on_all_workers(launch, tmp_path, resumed):
    """The command is run as a worker would run it, with a stand-in for the program of the checkout."""
    checkout, out = tmp_path / "a checkout", tmp_path / "a run"
    program = checkout / ".venv" / "bin" / "dynamite-jax"
    program.parent.mkdir(parents=True)
    program.write_text(STAND_IN)
    program.chmod(0o755)
    if resumed:
        out.mkdir()
        (out / "config.json").touch()
    names = {"TPU": "pod", "ZONE": "zone", "CHECKOUT": str(checkout), "OUT": str(out)}
    code, [call], _ = launch("tpu_pod.sh", "--seeds", "1024", **names)
    assert code == 0
    assert call[:-1] == ["gcloud", "compute", "tpus", "tpu-vm", "ssh", "pod", "--zone=zone", "--worker=all"]
    environment = os.environ | {"CALLS": str(tmp_path / "worker")}
    subprocess.run(["sh", "-c", call[-1].removeprefix("--command=")], env=environment, check=True)
    expected = ["dynamite-jax", "train", "--distributed", "--out", str(out)]
    expected += ["--seeds", "1024", *["--resume"] * resumed]
    assert shlex.split((tmp_path / "worker").read_text()) == expected


@pytest.mark.parametrize("script", ["slurm.sh", "tpu_pod.sh"])
def test_a_dry_run_prints_the_command_alone(launch, tmp_path, script):
    names = {"TPU": "pod", "ZONE": "zone", "SLURM_JOB_ID": "7", "OUT": str(tmp_path), "DRY_RUN": "1"}
    code, calls, printed = launch(script, "--seeds", "8", **names)
    assert (code, calls) == (0, []) and "--seeds" in printed and str(tmp_path) in printed


@pytest.mark.parametrize("script, name", [("slurm.sh", "OUT"), ("tpu_pod.sh", "TPU")])
def test_what_is_missing_is_named(launch, script, name):
    code, calls, printed = launch(script)
    assert code != 0 and not calls and f"{name}: is missing" in printed


GKE = ["--name", "ring", "--image", "registry/dynamite", "--claim", "disk", "--out", "/shared/ring"]
TPU = ["--hosts", "4", "--tpu", "tpu-v6e-slice", "--topology", "4x4", "--queue", "team"]
PODS = {"a slice of a TPU": TPU, "one host": ["--gpus", "8"], "hosts with GPUs": ["--gpus", "8", "--hosts", "2"]}


@pytest.mark.parametrize("pods", PODS.values(), ids=PODS)
def test_kubernetes_gets_a_jobset_that_its_schema_allows(launch, tmp_path, pods):
    schema = json.loads((CHECKOUT / "tests" / "files" / "jobset_v1alpha2.json").read_text())
    code, calls, printed = launch("gke.py", *GKE, *pods, "--", "--seeds", "8")
    assert (code, calls) == (0, [["kubectl", "create", "-f", "-"]]), printed
    manifest = json.loads((tmp_path / "calls.stdin").read_text())
    jsonschema.validate(manifest, schema)
    job = manifest["spec"]["replicatedJobs"][0]["template"]["spec"]
    hosts = int(pods[pods.index("--hosts") + 1]) if "--hosts" in pods else 1
    assert job["parallelism"] == job["completions"] == hosts and job["completionMode"] == "Indexed"
    limits = job["template"]["spec"]["containers"][0]["resources"]["limits"]
    failures = job["podFailurePolicy"]["rules"][0]["onExitCodes"]
    assert failures["operator"] == "In" and failures["values"] == [2, 3]  # 1 is of what nobody foresaw
    assert limits == ({"google.com/tpu": 4} if "--tpu" in pods else {"nvidia.com/gpu": 8})
    assert ("queue-name" in json.dumps(manifest)) == ("--queue" in pods)


@pytest.mark.parametrize("pods", PODS.values(), ids=PODS)
@pytest.mark.parametrize("resumed", [False, True])
def test_a_pod_of_kubernetes_trains_its_part(launch, tmp_path, pods, resumed):
    """Its command is run as the pod would run it: number 2 of its job, with the folder of the run elsewhere."""
    odd = ["--env-options", "name=$(OUT) 'x'"]
    launch("gke.py", *GKE, *pods, "--", *odd)
    manifest = json.loads((tmp_path / "calls.stdin").read_text())
    container = manifest["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]["containers"][0]
    if resumed:
        (tmp_path / "config.json").touch()
    program = tmp_path / "programs" / "dynamite-jax"
    program.write_text(STAND_IN)
    program.chmod(0o755)
    environment = {entry["name"]: entry["value"] for entry in container["env"]}
    environment |= {"OUT": str(tmp_path), "JOB_COMPLETION_INDEX": "2", "CALLS": str(tmp_path / "pod")}
    environment["PATH"] = f"{program.parent}:{os.environ['PATH']}"

    def put_in(name: re.Match) -> str:
        """What Kubernetes makes of $(NAME), and of $$(NAME)."""
        return name[0][1:] if name[0].startswith("$$") else environment.get(name[1], name[0])

    line = [re.sub(r"\$?\$\((\w+)\)", put_in, word) for word in (*container["command"], *container["args"])]
    subprocess.run(line, env=environment, check=True)
    several = [
        "--coordinator",
        "ring-host-0-0.ring:1234",
        "--processes",
        environment.get("PROCESSES"),
        "--process",
        "2",
    ]
    expected = ["dynamite-jax", "train", "--out", str(tmp_path), *odd, *["--resume"] * resumed]
    assert shlex.split((tmp_path / "pod").read_text()) == expected + several * ("--hosts" in pods)


def test_a_dry_run_for_kubernetes_prints_command_and_manifest(launch):
    code, calls, printed = launch("gke.py", *GKE, *TPU, "--dry-run")
    assert (code, calls) == (0, [])
    command, text = printed.split("\n", 1)
    assert command == "kubectl create -f - <<'EOF'"
    assert json.loads(text.removesuffix("\nEOF\n"))["kind"] == "JobSet"


def test_what_kubectl_says_is_the_end(launch):
    assert launch("gke.py", *GKE, *TPU, CODE="3")[0] == 3


@pytest.mark.parametrize(
    "flags, said",
    [
        (("--name", "My_Run"), "name is 'My_Run'; it must be at most 40 small letters, digits and hyphens"),
        (("--out", "/elsewhere/run"), "out is '/elsewhere/run'; it must be a folder in /shared"),
        (("--out", "/shared/../run"), "out is '/shared/../run'; it must be a folder in /shared"),
        (("--out", "/shared"), "out is '/shared'; it must be a folder in /shared"),
        (("--gpus", "8"), "tpu is 'tpu-v6e-slice' and gpus is 8; one of them must be set"),
        (("--hosts", "0"), "hosts is 0; it must be 1 or more"),
        (("--grace-s", "0"), "grace_s is 0; it must be 1 or more"),
    ],
)
def test_what_a_cluster_would_refuse_is_refused(launch, flags, said):
    code, calls, printed = launch("gke.py", *GKE, *TPU, *flags)
    assert (code, calls) == (2, []) and f"error: {said}" in printed and printed.count("\n") == 1


def test_a_slice_without_its_size_is_refused(launch):
    code, _, printed = launch("gke.py", *GKE, "--tpu", "tpu-v6e-slice")
    assert code == 2 and "error: topology is None; it goes together with tpu, 'tpu-v6e-slice'" in printed
