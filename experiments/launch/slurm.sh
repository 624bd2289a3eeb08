#!/usr/bin/env bash
# Runs on SLURM: one on all nodes of a job, a process on each; or, as an array, one for each task, whose number is the
# root seed. A job is queued again until its run is finished: SLURM asks it to stop before its time is over, and it goes
# on from what it has kept. What follows the script goes to `dynamite-jax train`; OUT is a folder that all nodes see.
# DRY_RUN=1 prints the command and starts nothing. RESTARTS bounds how often a job that was stopped before it trained is
# queued again, 10 by default: its time may be too short to compile.
#
#   OUT=/shared/run sbatch --nodes 4 --time 4:00:00 experiments/launch/slurm.sh --env halfcheetah_vel --seeds 64
#   OUT=/shared/runs sbatch --array 1-10 --time 4:00:00 experiments/launch/slurm.sh --env gridworld --method rl2
#SBATCH --job-name=dynamite
#SBATCH --ntasks-per-node=1
#SBATCH --signal=TERM@120
#SBATCH --requeue
#SBATCH --open-mode=append
set -euo pipefail

STOPPED=75     # exit code of a run that was asked to stop and is kept
TERMINATED=143 # of one that was asked to while it did not train yet, or no longer

OUT=${OUT:?is missing: name a folder that all nodes see, as in OUT=/shared/run sbatch ...}
if [[ -n ${SLURM_ARRAY_TASK_ID:-} ]]; then
  job=${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID run=$OUT/$SLURM_ARRAY_TASK_ID which=(--seed "$SLURM_ARRAY_TASK_ID")
else
  job=$SLURM_JOB_ID run=$OUT which=(--distributed)
fi
# One process that is done does not end the others: they may be keeping their seeds.
start=(srun --kill-on-bad-exit=0 dynamite-jax train "${which[@]}" --out "$run" "$@")
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
if ((code == STOPPED || code == TERMINATED && ${SLURM_RESTART_COUNT:-0} < ${RESTARTS:-10})); then
  scontrol requeue "$job"
fi
exit "$code"
