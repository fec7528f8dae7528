#!/usr/bin/env bash
# Starts a command, given as words, on all workers and shows worker 0's log until it ends.
. launch/tpu_vm/runs.sh

if begin "$@"; then accompany; fi
finish
