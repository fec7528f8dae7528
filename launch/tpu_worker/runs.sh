# shellcheck shell=bash
# Sourced by launch/tpu_worker.sh: how a run begins on a worker, and how it ends. Its directory has a file pid, a log,
# and, when it has ended, a file code. It has a session of its own: no broken connection ends it.
# shellcheck source=launch/tpu_worker/state.sh
. "$(dirname "$0")/tpu_worker/state.sh"

start() {
    local id=$1 secrets=$2
    shift 2
    if [ -e "$runs/$id" ]; then return; fi
    if going last; then refuse "a run is going; tpu_vm.sh follow shows it, stop ends it"; fi
    mounted
    mkdir -p "$runs/$id"
    (cd "$code" && exec setsid nohup bash launch/tpu_worker.sh body "$id" "$secrets" "$@") \
        </dev/null >"$runs/$id/log" 2>&1 &
    echo $! >"$runs/$id/pid"
    ln -sfn "$id" "$runs/last"
}

body() { # in its own session: the command, with the secrets in its environment and nowhere else
    local run=$runs/$1 name value ended=0
    local -a names
    IFS=, read -ra names <<<"$2"
    shift 2
    for name in ${names[@]+"${names[@]}"}; do
        if value=$(gcloud secrets versions access latest --secret="$name"); then
            export "$name=$value"
        else
            echo "tpu_worker.sh: $(hostname): the secret $name cannot be read; launch/README.md says who may" >&2
            ended=1
        fi
    done
    trap : TERM # the command gets it too; this shell stays to write down how the command ends
    if [ "$ended" = 0 ]; then PATH=$venv/bin:$PATH PYTHONUNBUFFERED=1 "$@" || ended=$?; fi
    echo "$ended" >"$run/code.partial"
    mv "$run/code.partial" "$run/code"
}

follow() { # the log from 50 lines before its end, until the run ends
    [ -f "$runs/$1/pid" ] || refuse "there is no run $1 here"
    (while going "$1"; do sleep 0.5; done) >/dev/null 2>&1 & # holds nobody who waits for the end of the output
    tail -n 50 -s 0.5 --pid=$! -F "$runs/$1/log" 2>/dev/null
}

result() { # how a run ended, waiting for that at most so many seconds
    local run=$runs/$1 waited=0 ended=lost
    while going "$1" && [ "$waited" -lt "$2" ]; do
        sleep 1
        waited=$((waited + 1))
    done
    if going "$1"; then
        kill -KILL -- "-$(cat "$run/pid")"
        echo "tpu_worker.sh: $(hostname): the run had not ended $2 s after worker 0's: killed"
    fi
    if [ -f "$run/pid" ]; then ended=$(cat "$run/code" 2>/dev/null || echo 137); fi
    case $ended in 0 | 75 | lost) ;; *) tail -n 30 "$run/log" | sed "s/^/$(hostname): /" ;; esac
    echo "RESULT $(hostname) $ended"
}
