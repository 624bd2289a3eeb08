#!/usr/bin/env bash
# One run on the nodes of a SLURM job, a process on each. The job is queued again until the run is finished: SLURM asks
# it to stop before its time is over, and it goes on from what it has kept. What follows the script goes to
# `dynamite-jax train`; OUT is a folder that all nodes see. DRY_RUN=1 prints the command and starts nothing.
#
#   OUT=/shared/run sbatch --nodes 4 --time 4:00:00 experiments/launch/slurm.sh --env halfcheetah_vel --seeds 64
#SBATCH --job-name=dynamite
#SBATCH --ntasks-per-node=1
#SBATCH --signal=TERM@120
#SBATCH --requeue
#SBATCH --open-mode=append
set -euo pipefail

STOPPED=75 # exit code of a run that was asked to stop and is kept

OUT=${OUT:?is missing: name a folder that all nodes see, as in OUT=/shared/run sbatch ...}
start=(srun --kill-on-bad-exit=0 dynamite-jax train --distributed --out "$OUT" "$@")
if [[ -e $OUT/config.json ]]; then
  start+=(--resume)
fi
if [[ -n ${DRY_RUN:-} ]]; then
  printf '%q ' "${start[@]}"
  echo
  exit
fi
code=0
"${start[@]}" || code=$?
if ((code == STOPPED)); then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
