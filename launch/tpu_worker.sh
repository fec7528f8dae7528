#!/usr/bin/env bash
# The part of launch/tpu_vm.sh that runs on every worker of a slice; it is copied there with the code and called over
# ssh. Any call may come twice: gcloud connects again when a connection breaks, and says the whole command again.
set -euo pipefail
usage="Usage: tpu_worker.sh setup [BUCKET] | last | start ID SECRETS COMMAND... | follow ID | result ID SECONDS | stop"

here=$(dirname "$0")/tpu_worker
# shellcheck source=launch/tpu_worker/install.sh
. "$here/install.sh" # before setup moves it
# shellcheck source=launch/tpu_worker/runs.sh
. "$here/runs.sh"

case ${1:-} in
    -h | --help) echo "$usage" ;;
    setup | last | start | body | follow | result | stop) "$@" ;;
    *) refuse "$usage" ;;
esac
