#!/usr/bin/env bash
# Deletes the slice and the request for it.
. launch/tpu_vm/gcloud.sh

asked queued-resources delete "$SLICE_NAME" --force || die 1 "$SLICE_NAME was not deleted: $complaint"
