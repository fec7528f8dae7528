"""Checkpoints in a bucket, which cannot rename: written where they stay, and counted by an index written after them.

    place/index.json                   the steps of the published checkpoints: what is not in it is none
    place/step-000000010/state/        what Orbax wrote
    place/step-000000010/manifest.json written when all of it is there

Nothing here follows from what a list of objects lacks (see `BucketPath.keys`): it serves to clear up alone.
"""

import contextlib
import importlib.util
import json
import re
from collections.abc import Mapping
from typing import Any

import jax

from gsae import artifacts
from gsae.errors import RunError, SettingError
from gsae.places import BucketPath, names, try_out
from gsae.training.shelves import PREFIX

INDEX = "index.json"
SETTING = "config.training.checkpoints"


def check_scheme(place: BucketPath) -> None:
    """Refuses buckets that checkpoints cannot be in; raises SettingError."""
    if place.scheme != "gs":
        allowed = (
            "must be a directory or gs://...: Orbax writes to no other buckets; beside a store in s3:// they go to a "
            "directory that all processes see"
        )
        raise SettingError(SETTING, str(place), allowed)


class BucketShelf:
    """Checkpoints in one place of a bucket: a `DirectoryShelf` for processes that share nothing else."""

    def __init__(self, place: BucketPath):
        self.directory = place
        check_scheme(place)
        if not any(map(importlib.util.find_spec, ("gcsfs", "tensorflow"))):
            allowed = 'needs gcsfs, through which Orbax reaches buckets: pip install "gsae[gcs]"'
            raise SettingError(SETTING, str(place), allowed)

    def prepare(self) -> None:
        """Tries whether the place can be used, and removes what a killed process left unpublished.

        Raises:
            RunError: when it cannot.
        """
        if jax.process_index() != 0:
            return
        try_out(self.directory)
        published = self.steps()
        for name in names(self.directory):
            match = re.fullmatch(PREFIX + r"(\d+)", name)
            # With a manifest it is one that was set aside, or about to be published when the process was killed.
            if match and int(match[1]) not in published and not (self.directory / name / artifacts.MANIFEST).exists():
                (self.directory / name).remove_below()

    def steps(self) -> list[int]:
        """The steps of the published checkpoints, oldest first; damaged ones are among them."""
        try:
            return json.loads((self.directory / INDEX).read_text())["steps"]
        except FileNotFoundError:
            return []
        except (ValueError, LookupError, TypeError) as error:
            allowed = "write the steps that are there into it, or remove it to train from the start"
            raise RunError(f"{self.directory / INDEX}: is not readable ({error}); {allowed}") from error

    def path(self, step: int) -> BucketPath:
        """Where the checkpoint of a step is."""
        return self.directory / f"{PREFIX}{step:09d}"

    aside = path  # nothing can be renamed later

    def begin(self, step: int) -> None:
        """Clears `path(step)`. For process 0."""
        self._count(step, False)
        digests = (f"digests-{process}.json" for process in range(jax.process_count()))
        for name in (artifacts.MANIFEST, *digests):  # what would be taken for this save's, whether it is listed or not
            (self.path(step) / name).unlink()
        self.path(step).remove_below()

    def publish(self, step: int, manifest: Mapping[str, Any]) -> None:
        """What was written becomes the checkpoint of the step. For process 0."""
        artifacts.write_json(self.path(step) / artifacts.MANIFEST, manifest)
        self._count(step, True)

    def abandon(self, step: int) -> None:
        """Removes what was written, if the bucket lets it; the next start tries again."""
        with contextlib.suppress(RunError):
            self.path(step).remove_below()

    def forget(self, step: int) -> None:
        """Removes the checkpoint of a step. For process 0."""
        self._count(step, False)
        (self.path(step) / artifacts.MANIFEST).unlink()
        self.path(step).remove_below()

    def set_aside(self, step: int) -> None:
        """A damaged checkpoint is none any more; its objects stay until this step is saved again. For process 0."""
        self._count(step, False)

    def _count(self, step: int, present: bool) -> None:
        steps = set(self.steps())
        wanted = steps | {step} if present else steps - {step}
        if wanted != steps:
            artifacts.write_json(self.directory / INDEX, {"steps": sorted(wanted)})
