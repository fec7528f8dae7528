# shellcheck shell=bash
# Sourced by every command: gcloud, the workers, and the state of the slice. Run from the root of the checkout.
set -euo pipefail
. launch/tpu_vm/say.sh

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
complaint=

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

ready() { [ "$(state tpu-vm)" = READY ]; }

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
