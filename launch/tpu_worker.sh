#!/usr/bin/env bash
# The part of launch/tpu_vm.sh that runs on every worker of a slice; it is copied there with the code and called over
# ssh. Any call may come twice: gcloud connects again when a connection breaks, and says the whole command again.
# A run lives in ~/gsae_runs/ID: pid, log, and, when it has ended, code. It has a session of its own: no broken
# connection ends it.
set -euo pipefail
code=$HOME/gsae venv=$HOME/gsae_venv runs=$HOME/gsae_runs bucket=$HOME/gsae_bucket
usage="Usage: tpu_worker.sh setup [BUCKET] | last | start ID SECRETS COMMAND... | follow ID | result ID SECONDS | stop"

refuse() {
    echo "tpu_worker.sh: $(hostname): $1" >&2
    exit 3
}

going() { # run: whether it has not ended
    [ -f "$runs/$1/pid" ] && [ ! -f "$runs/$1/code" ] && kill -0 "$(cat "$runs/$1/pid")" 2>/dev/null
}

last() { # the last run here, and whether it goes on
    [ -e "$runs/last" ] || refuse "nothing has been run here"
    if going last; then echo "$(readlink "$runs/last") going"; else echo "$(readlink "$runs/last") ended"; fi
}

environment() { # with Python 3.11 or later; images with Ubuntu 22.04 have 3.10, where uv brings a newer one
    local python
    for python in python3.13 python3.12 python3.11 python3; do
        if "$python" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            "$python" -m venv "$venv"
            return
        fi
    done
    PIP_BREAK_SYSTEM_PACKAGES=1 python3 -m pip install -q --user uv
    python3 -m uv venv -q --seed --python 3.12 "$venv"
}

setup() { # tpu_vm.sh has unpacked the code beside its place
    if going last; then refuse "a run is going; tpu_vm.sh stop ends it"; fi
    if [ -d "$code.new" ]; then
        rm -rf "$code"
        mv "$code.new" "$code"
    fi
    [ -x "$venv/bin/python" ] || environment || refuse "no environment could be made"
    "$venv/bin/python" -m pip install -q -e "${code}[tpu,gcs]" || refuse "the installation failed"
    if [ "${1:-}" != "$(cat "$bucket.name" 2>/dev/null)" ]; then unmount; fi
    if [ -n "${1:-}" ]; then echo "$1" >"$bucket.name"; else rm -f "$bucket.name"; fi
    mounted
}

unmount() { fusermount -uz "$bucket" 2>/dev/null || true; }

mounted() { # the bucket that setup was told of, if any; a reboot takes the mount away
    local name said
    if [ ! -f "$bucket.name" ] || mountpoint -q "$bucket"; then return; fi
    name=$(cat "$bucket.name")
    if ! command -v gcsfuse >/dev/null; then
        said=$(sudo apt-get install -y gcsfuse 2>&1) ||
            refuse "gcsfuse is missing (${said##*$'\n'}): Google's page 'Install Cloud Storage FUSE' says how to get it"
    fi
    unmount # what a gcsfuse that died has left
    mkdir -p "$bucket"
    # whole directories are renamed; and a worker must see at once what another has written: nothing is remembered
    gcsfuse --implicit-dirs --rename-dir-limit=1000 --metadata-cache-ttl-secs=0 "$name" "$bucket" >"$bucket.log" 2>&1 ||
        refuse "the bucket $name cannot be mounted: $(tail -n 1 "$bucket.log")"
}

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
    (while going "$1"; do sleep 0.5; done) &
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

stop() {
    if going last; then kill -TERM -- "-$(cat "$runs/last/pid")"; fi
}

case ${1:-} in
    -h | --help) echo "$usage" ;;
    setup | last | start | body | follow | result | stop) "$@" ;;
    *) refuse "$usage" ;;
esac
