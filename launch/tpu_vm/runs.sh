# shellcheck shell=bash
# Sourced by the commands that have to do with a run on the workers.
. launch/tpu_vm/gcloud.sh

trap 'say "a run goes on without this: follow shows it, stop ends it"; exit 130' INT
begun=0 run='' outcome=lost

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
