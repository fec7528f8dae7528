# shellcheck shell=bash
# Sourced: what is said to the person at the terminal.

say() { echo "tpu_vm.sh: $1" >&2; }

die() { # exit code, message
    say "$2"
    exit "$1"
}

need() { # names of settings
    local name
    for name in "$@"; do [ -n "${!name:-}" ] || die 2 "$name is not set; launch/tpu_vm.sh -h says what it is"; done
}
