#!/usr/bin/env bash
# Shows the log of the last run until it ends.
. launch/tpu_vm/runs.sh

last=$(worker 0 last) || finish
run=${last% *}
accompany
finish
