#!/usr/bin/env bash
# Copies a path of worker 0 into a directory here.
. launch/tpu_vm/gcloud.sh

mkdir -p "$2"
tpu tpu-vm scp "$SLICE_NAME:$1" "$2" --recurse --worker=0
