#!/usr/bin/env bash
# SIGTERM to the run on all workers.
. launch/tpu_vm/gcloud.sh

worker all stop
