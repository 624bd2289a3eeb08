#!/usr/bin/env bash
# One run on all workers of a TPU VM pod slice, each of which has a checkout where the project is set up
# (`make setup EXTRAS=tpu`). What follows the script goes to `dynamite-jax train`. DRY_RUN=1 prints the command and
# starts nothing.
#
#   TPU=my-pod ZONE=us-central2-b CHECKOUT=dynamite_jax OUT=/mnt/shared/run experiments/launch/tpu_pod.sh --seeds 1024
set -euo pipefail

TPU=${TPU:?is missing: the name of the slice}
ZONE=${ZONE:?is missing: its zone, as us-central2-b}
CHECKOUT=${CHECKOUT:-dynamite_jax}
OUT=${OUT:?is missing: a folder that all workers see, as /mnt/shared/run}
train=$(printf ' %q' .venv/bin/dynamite-jax train --distributed --out "$OUT" "$@")
again="resume=; if [ -e $(printf %q "$OUT/config.json") ]; then resume=--resume; fi"
start=(gcloud compute tpus tpu-vm ssh "$TPU" "--zone=$ZONE" --worker=all
  "--command=cd $(printf %q "$CHECKOUT") && { $again; exec$train \$resume; }")
if [[ -n ${DRY_RUN:-} ]]; then
  printf '%q ' "${start[@]}"
  echo
  exit
fi
exec "${start[@]}"
