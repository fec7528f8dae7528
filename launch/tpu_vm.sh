#!/usr/bin/env bash
# Runs gsae on a Cloud TPU slice (v4, v5e, v5p, v6e) through gcloud. launch/README.md goes through it line by line.
# Each command is a script of its own in launch/tpu_vm/.
set -euo pipefail

usage() {
    cat <<'USAGE'
Usage: launch/tpu_vm.sh COMMAND [ARGUMENTS]

  create                 asks for the slice and waits until it is there
  setup                  copies this checkout to all workers and installs it there
  run COMMAND...         starts a command on all workers and shows worker 0's log until it ends; exits with its code
  follow                 shows that log again; exits with the code. Ctrl-C leaves the run going
  stop                   SIGTERM to the run on all workers: gsae saves a checkpoint and exits with 75
  until_done COMMAND...  create, setup and run, again after every pre-emption, until exit code 0 or a failure
  fetch PATH DIRECTORY   copies PATH, as worker 0 sees it from its home directory
  logs DIRECTORY         copies every worker's log of the last run
  status                 the state of the request and of the slice
  delete                 deletes both: nothing costs any more

From the environment: SLICE_NAME, SLICE_ZONE; to create also SLICE_TYPE (v5litepod-16) and SLICE_RUNTIME
(v2-alpha-tpuv5-lite); optional: SLICE_TOPOLOGY (2x2x4; SLICE_TYPE is then v4), SLICE_SPOT=yes, SLICE_PROJECT,
SLICE_ACCOUNT (the workers' service account), SLICE_SECRETS (HF_TOKEN,WANDB_API_KEY: names in Secret Manager),
SLICE_BUCKET (a bucket's name: setup mounts it on all workers as ~/gsae_bucket, through gcsfuse), SLICE_POLL
(seconds between questions, 30), SLICE_ATTEMPTS (of until_done, 100).
USAGE
}

cd "$(dirname "$0")/.."
. launch/tpu_vm/say.sh
case ${1:-} in
    -h | --help) usage && exit ;;
    create | setup | follow | stop | status | delete) [ $# = 1 ] || die 2 "$1 takes no arguments; -h shows all" ;;
    run | until_done) [ $# -gt 1 ] || die 2 "$1 needs a command; -h shows all" ;;
    fetch) [ $# = 3 ] || die 2 "fetch needs a path and a directory; -h shows all" ;;
    logs) [ $# = 2 ] || die 2 "logs needs a directory; -h shows all" ;;
    "") die 2 "no command; -h shows all" ;;
    *) die 2 "$1: is not a command; -h shows all" ;;
esac
. launch/tpu_vm/check.sh
exec bash "launch/tpu_vm/$1.sh" "${@:2}"
