#!/usr/bin/env bash
# The state of the request and of the slice.
. launch/tpu_vm/gcloud.sh

tpu queued-resources describe "$SLICE_NAME"
say "the slice is $(state tpu-vm)"
