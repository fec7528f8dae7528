#!/usr/bin/env bash
# Sends what git tracks, as it is in the working tree, to all workers, and installs it there.
. launch/tpu_vm/gcloud.sh

commit=$(git -c user.name=gsae -c user.email=gsae@localhost stash create)
if [ -n "$(git ls-files --others --exclude-standard)" ]; then say "files that git does not track are not copied"; fi
failed() { die 1 "the code could not be installed on all workers"; }
git archive --format=tar.gz --output="$scratch/gsae.tar.gz" "${commit:-HEAD}" || failed
tpu tpu-vm scp "$scratch/gsae.tar.gz" "$SLICE_NAME:gsae.tar.gz" --worker=all || failed
on all bash -c "rm -rf gsae.new && mkdir gsae.new && tar -xzf gsae.tar.gz -C gsae.new &&
    bash gsae.new/launch/tpu_worker.sh setup ${SLICE_BUCKET:-}" || failed
