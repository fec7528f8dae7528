#!/usr/bin/env bash
# Asks for the slice and waits until it is there.
. launch/tpu_vm/gcloud.sh

need SLICE_TYPE SLICE_RUNTIME
shape=(--accelerator-type="$SLICE_TYPE")
if [ -n "${SLICE_TOPOLOGY:-}" ]; then shape=(--type="$SLICE_TYPE" --topology="$SLICE_TOPOLOGY"); fi
if [ "${SLICE_SPOT:-}" = yes ]; then shape+=(--spot); fi
if [ -n "${SLICE_ACCOUNT:-}" ]; then shape+=(--service-account="$SLICE_ACCOUNT"); fi
if asked queued-resources create "$SLICE_NAME" --node-id="$SLICE_NAME" --runtime-version="$SLICE_RUNTIME" \
    "${shape[@]}"; then
    await
else
    case $complaint in *[Qq]uota*) complaint+=" (Quotas in launch/costs.md)" ;; esac
    die 1 "$SLICE_NAME was refused: $complaint"
fi
