#!/usr/bin/env bash
# Copies every worker's log of the last run into a directory here.
. launch/tpu_vm/gcloud.sh

mkdir -p "$1"
count=$(tpu tpu-vm describe "$SLICE_NAME" --format='value(networkEndpoints.len())')
for ((index = 0; index < count; index++)); do
    tpu tpu-vm scp "$SLICE_NAME:gsae_runs/last/log" "$1/worker_$index.log" --worker="$index"
done
