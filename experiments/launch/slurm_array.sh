#!/usr/bin/env bash
# Runs of their own, one for each task of a SLURM array, whose number is the root seed; each goes on like that of slurm.sh.
#
#   OUT=/shared/runs sbatch --array 1-10 --time 4:00:00 experiments/launch/slurm_array.sh --env gridworld --method rl2
#SBATCH --job-name=dynamite
#SBATCH --ntasks=1
#SBATCH --signal=TERM@120
#SBATCH --requeue
#SBATCH --open-mode=append
set -euo pipefail

STOPPED=75 # exit code of a run that was asked to stop and is kept

OUT=${OUT:?is missing: name a folder, as in OUT=/shared/runs sbatch ...}
run=$OUT/${SLURM_ARRAY_TASK_ID:?is missing: start this as an array, as in sbatch --array 1-10 ...}
start=(srun dynamite-jax train --seed "$SLURM_ARRAY_TASK_ID" --out "$run" "$@")
if [[ -e $run/config.json ]]; then
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
  scontrol requeue "${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID"
fi
exit "$code"
