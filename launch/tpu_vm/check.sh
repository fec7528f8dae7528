# shellcheck shell=bash
# Sourced: the arguments, the settings and gcloud, before anything is asked of it.

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
