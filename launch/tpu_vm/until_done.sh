#!/usr/bin/env bash
# create, setup and run, again after every pre-emption, until exit code 0 or a failure that is the run's own.
. launch/tpu_vm/runs.sh

provide() { # the slice, whatever has become of it: sets fresh to yes where it is a new one
    local now
    now=$(state queued-resources) || exit 1
    if [ "$now" = ACTIVE ]; then
        case $(state tpu-vm) in PREEMPTED | TERMINATED | ABSENT) now=SUSPENDED ;; esac
    fi
    case $now in SUSPENDED | SUSPENDING | FAILED)
        say "$SLICE_NAME is $now: asking again"
        bash launch/tpu_vm/delete.sh || exit
        now=ABSENT
        ;;
    esac
    if [ "$now" = ABSENT ]; then
        bash launch/tpu_vm/create.sh || exit
        fresh=yes
    else
        await
    fi
}

installed() { # setup, whose failure on a slice that is there is the end
    bash launch/tpu_vm/setup.sh && return
    if ready; then exit 1; fi
    return 1
}

again() { # not all workers answered: either the slice is gone, or something is wrong with it
    if ready && [ "$((lost += 1))" -gt 3 ]; then finish; fi
    say "not all workers answer: looking at the slice again"
    sleep "${SLICE_POLL:-30}"
}

lost=0 fresh=yes
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
