#!/usr/bin/env bash
# Runs gsae on a Cloud TPU slice (v4, v5e, v5p, v6e) through gcloud. launch/README.md goes through it line by line.
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

die() { # exit code, message
    echo "tpu_vm.sh: $2" >&2
    exit "$1"
}

say() { echo "tpu_vm.sh: $1" >&2; }

need() { # names of settings
    local name
    for name in "$@"; do [ -n "${!name:-}" ] || die 2 "$name is not set; launch/tpu_vm.sh -h says what it is"; done
}

# --- gcloud

tpu() { gcloud compute tpus "$@" --zone="$SLICE_ZONE" ${SLICE_PROJECT:+--project="$SLICE_PROJECT"} --quiet; }

asked() { # the same, silent about errors; when it fails, `complaint` is gcloud's own line about it
    tpu "$@" 2>"$scratch/errors" && return
    complaint=$(grep -m1 ERROR "$scratch/errors" || tail -n 1 "$scratch/errors")
    return 1
}

on() { # worker or all, then a command as words, which arrive as they are
    local command
    command=$(printf '%q ' "${@:2}")
    tpu tpu-vm ssh "$SLICE_NAME" --worker="$1" --command="$command"
}

worker() { on "$1" bash gsae/launch/tpu_worker.sh "${@:2}"; }

state() { # queued-resources or tpu-vm (the request, the slice): ABSENT, or what the service calls its state
    local path=state
    if [ "$1" = queued-resources ]; then path=state.state; fi
    if asked "$1" describe "$SLICE_NAME" --format="value($path)"; then return; fi
    case $complaint in
        *NOT_FOUND* | *"not found"*) echo ABSENT ;;
        *) die 1 "the state of $SLICE_NAME is unknown: $complaint" ;;
    esac
}

# --- the slice

create() {
    need SLICE_TYPE SLICE_RUNTIME
    local shape=(--accelerator-type="$SLICE_TYPE")
    if [ -n "${SLICE_TOPOLOGY:-}" ]; then shape=(--type="$SLICE_TYPE" --topology="$SLICE_TOPOLOGY"); fi
    if [ "${SLICE_SPOT:-}" = yes ]; then shape+=(--spot); fi
    if [ -n "${SLICE_ACCOUNT:-}" ]; then shape+=(--service-account="$SLICE_ACCOUNT"); fi
    if asked queued-resources create "$SLICE_NAME" --node-id="$SLICE_NAME" --runtime-version="$SLICE_RUNTIME" \
        "${shape[@]}"; then
        await
        return
    fi
    case $complaint in *[Qq]uota*) complaint+=" (Quotas in launch/costs.md)" ;; esac
    die 1 "$SLICE_NAME was refused: $complaint"
}

await() { # until the slice can be used
    local now before=
    while true; do
        now=$(state queued-resources) || exit 1
        if [ "$now" != "$before" ]; then say "$SLICE_NAME: $now"; fi
        before=$now
        case $now in
            ACTIVE) if ready; then return; fi ;;
            FAILED | SUSPENDED | ABSENT) die 1 "$SLICE_NAME is $now; launch/tpu_vm.sh status says why" ;;
        esac
        sleep "${SLICE_POLL:-30}"
    done
}

ready() { [ "$(state tpu-vm)" = READY ]; }

provide() { # the slice, whatever has become of it: sets fresh to yes where it is a new one
    local now
    now=$(state queued-resources) || exit 1
    if [ "$now" = ACTIVE ]; then
        case $(state tpu-vm) in PREEMPTED | TERMINATED | ABSENT) now=SUSPENDED ;; esac
    fi
    case $now in SUSPENDED | SUSPENDING | FAILED)
        say "$SLICE_NAME is $now: asking again"
        delete
        now=ABSENT
        ;;
    esac
    if [ "$now" = ABSENT ]; then
        create
        fresh=yes
    else
        await
    fi
}

delete() { asked queued-resources delete "$SLICE_NAME" --force || die 1 "$SLICE_NAME was not deleted: $complaint"; }

status() {
    tpu queued-resources describe "$SLICE_NAME"
    say "the slice is $(state tpu-vm)"
}

# --- a run

setup() { # sends what git tracks, as it is in the working tree
    local commit
    commit=$(git -c user.name=gsae -c user.email=gsae@localhost stash create)
    if [ -n "$(git ls-files --others --exclude-standard)" ]; then say "files that git does not track are not copied"; fi
    git archive --format=tar.gz --output="$scratch/gsae.tar.gz" "${commit:-HEAD}" &&
        tpu tpu-vm scp "$scratch/gsae.tar.gz" "$SLICE_NAME:gsae.tar.gz" --worker=all &&
        on all bash -c "rm -rf gsae.new && mkdir gsae.new && tar -xzf gsae.tar.gz -C gsae.new &&
            bash gsae.new/launch/tpu_worker.sh setup ${SLICE_BUCKET:-}"
}

begin() { # a command as words: sets run to the name under which the workers keep it
    run=$(date -u +%Y%m%dT%H%M%SZ)_$$_$((begun += 1))
    worker all start "$run" "${SLICE_SECRETS:-}" "$@"
}

accompany() { # the run until it ends: sets outcome to its exit code, or to lost
    local results
    outcome=lost
    worker 0 follow "$run" || return 0
    results=$(worker all result "$run" 120) || return 0
    grep -v '^RESULT ' <<<"$results" >&2 || true
    outcome=$(awk '/^RESULT / { if ($3 == 75) again = 75; else if ($3 != 0 && bad == "") bad = $3 }
                   END { print bad == "" ? again + 0 : bad }' <<<"$results")
}

finish() { # says what the outcome is, and exits with it
    case $outcome in
        lost) die 1 "not all workers answer; a run that goes on is shown by launch/tpu_vm.sh follow" ;;
        75) say "stopped with a checkpoint (exit code 75): the same command continues" ;;
        0) say "finished; $SLICE_NAME costs until launch/tpu_vm.sh delete" ;;
        *) say "failed with exit code $outcome; $SLICE_NAME costs until launch/tpu_vm.sh delete" ;;
    esac
    exit "$outcome"
}

until_done() {
    local lost=0 last attempt fresh=yes
    for ((attempt = 1; attempt <= ${SLICE_ATTEMPTS:-100}; attempt++)); do
        provide
        outcome=lost
        last=$(worker 0 last 2>/dev/null) || last=
        if [[ $last == *" going" ]]; then
            run=${last% going}
            say "a run is going there: following it"
            accompany
        elif [ "$fresh" = no ] || installed; then
            fresh=no
            if begin "$@"; then accompany; else worker all stop 2>/dev/null || true; fi # some may have begun
        fi
        case $outcome in
            0) finish ;;
            75) say "stopped with a checkpoint: starting again" ;;
            lost) again ;;
            *) if ready; then finish; else again; fi ;; # workers also fail because others of them are gone
        esac
    done
    die 1 "not done after SLICE_ATTEMPTS = ${SLICE_ATTEMPTS:-100} attempts"
}

installed() { # setup, whose failure on a slice that is there is the end
    setup && return
    if ready; then die 1 "the code could not be installed on all workers"; fi
    return 1
}

again() { # not all workers answered: either the slice is gone, or something is wrong with it
    if ready && [ "$((lost += 1))" -gt 3 ]; then finish; fi
    say "not all workers answer: looking at the slice again"
    sleep "${SLICE_POLL:-30}"
}

logs() {
    local index count
    mkdir -p "$1"
    count=$(tpu tpu-vm describe "$SLICE_NAME" --format='value(networkEndpoints.len())')
    for ((index = 0; index < count; index++)); do
        tpu tpu-vm scp "$SLICE_NAME:gsae_runs/last/log" "$1/worker_$index.log" --worker="$index"
    done
}

check() { # the command line and gcloud, before anything is asked of it
    local word
    case $1 in
        -h | --help) usage && exit ;;
        create | setup | follow | stop | status | delete) [ $# = 1 ] || die 2 "$1 takes no arguments; -h shows all" ;;
        run | until_done) [ $# -gt 1 ] || die 2 "$1 needs a command; -h shows all" ;;
        fetch) [ $# = 3 ] || die 2 "fetch needs a path and a directory; -h shows all" ;;
        logs) [ $# = 2 ] || die 2 "logs needs a directory; -h shows all" ;;
        "") die 2 "no command; -h shows all" ;;
        *) die 2 "$1: is not a command; -h shows all" ;;
    esac
    for word in "$@"; do
        case $word in *HF_TOKEN=* | *WANDB_API_KEY=*) die 2 "others can read a command line: use SLICE_SECRETS" ;; esac
    done
    need SLICE_NAME SLICE_ZONE
    case ${SLICE_BUCKET:-} in
        *[!a-z0-9._-]*) die 2 "SLICE_BUCKET = '$SLICE_BUCKET': must be a bucket's name, without gs:// or a path" ;;
    esac
    command -v gcloud >/dev/null || die 1 "gcloud is not on PATH: https://cloud.google.com/sdk/docs/install"
    [ -n "$(gcloud auth list --filter=status:ACTIVE --format='value(account)' 2>/dev/null)" ] ||
        die 1 "gcloud is not logged in: gcloud auth login"
}

check "${1:-}" "${@:2}"
cd "$(dirname "$0")/.."
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
begun=0 complaint='' outcome=lost
case $1 in
    run | follow | until_done) trap 'say "a run goes on without this: follow shows it, stop ends it"; exit 130' INT ;;
esac
case $1 in
    run)
        begin "${@:2}" || finish
        accompany
        finish
        ;;
    follow)
        last=$(worker 0 last) || finish
        run=${last% *}
        accompany
        finish
        ;;
    setup) setup || die 1 "the code could not be installed on all workers" ;;
    stop) worker all stop ;;
    fetch) mkdir -p "$3" && tpu tpu-vm scp "$SLICE_NAME:$2" "$3" --recurse --worker=0 ;;
    *) "$@" ;;
esac
