# shellcheck shell=bash disable=SC2034
# Sourced by the parts of launch/tpu_worker.sh: where things are on a worker, and what is going on there.
code=$HOME/gsae venv=$HOME/gsae_venv runs=$HOME/gsae_runs bucket=$HOME/gsae_bucket

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

stop() {
    if going last; then kill -TERM -- "-$(cat "$runs/last/pid")"; fi
}
