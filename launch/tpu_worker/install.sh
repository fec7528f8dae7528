# shellcheck shell=bash
# Sourced by launch/tpu_worker.sh: the code, its environment and the bucket on a worker.
# shellcheck source=launch/tpu_worker/state.sh
. "$(dirname "$0")/tpu_worker/state.sh"

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
