"""Where the checkpoints of a run stand, and what makes one of them whole: the places under which they are written.

A `Checkpoints` says when and what; a shelf says where, how a checkpoint becomes visible and how it goes.
"""

import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from gsae import artifacts

PREFIX = "step-"
DAMAGED = "damaged-"


class DirectoryShelf:
    """Checkpoints in one directory that all processes see: written aside, renamed once all of one is on the disk."""

    def __init__(self, directory: Path):
        self.directory = Path(directory).absolute()  # Orbax takes absolute paths only

    def prepare(self) -> None:
        """Makes the directory, tries whether it can be written, and removes what a killed process left aside.

        Raises:
            RunError: when it cannot be written.
        """
        with artifacts.explained(self.directory):
            self.directory.mkdir(parents=True, exist_ok=True)
        if jax.process_index() == 0:
            artifacts.write_file(self.directory / ".writable", "")
            (self.directory / ".writable").unlink()
            for left in self.directory.glob(f"*{artifacts.PARTIAL}*"):
                shutil.rmtree(left) if left.is_dir() else left.unlink()

    def steps(self) -> list[int]:
        """The steps of the published checkpoints, oldest first; damaged ones are among them."""
        entries = self.directory.iterdir() if self.directory.is_dir() else ()
        names = (re.fullmatch(PREFIX + r"(\d+)", entry.name) for entry in entries)
        return sorted(int(match[1]) for match in names if match)

    def path(self, step: int) -> Path:
        """Where the checkpoint of a step is, once it is published."""
        return self.directory / f"{PREFIX}{step:09d}"

    def aside(self, step: int) -> Path:
        """Where the checkpoint of a step is written."""
        return self.path(step).with_name(self.path(step).name + artifacts.PARTIAL + "save")

    def begin(self, step: int) -> None:
        """Makes `aside(step)`, empty. For process 0."""
        shutil.rmtree(self.aside(step), ignore_errors=True)
        self.aside(step).mkdir()

    def publish(self, step: int, manifest: Mapping[str, Any]) -> None:
        """What was written aside becomes the checkpoint of the step. For process 0."""
        artifacts.write_json(self.aside(step) / artifacts.MANIFEST, manifest)
        shutil.rmtree(self.path(step), ignore_errors=True)
        os.replace(self.aside(step), self.path(step))
        artifacts.sync_directory(self.directory)

    def abandon(self, step: int) -> None:
        """Removes what was written aside."""
        shutil.rmtree(self.aside(step), ignore_errors=True)

    def forget(self, step: int) -> None:
        """Removes the checkpoint of a step. For process 0."""
        # Renamed first: a removal that is killed half-way leaves nothing that looks like a checkpoint.
        gone = self.path(step).with_name(self.path(step).name + artifacts.PARTIAL + "gone")
        os.replace(self.path(step), gone)
        shutil.rmtree(gone)

    def set_aside(self, step: int) -> None:
        """A damaged checkpoint is none any more; its bytes stay for whoever wants to look at them. For process 0."""
        shutil.rmtree(self.directory / f"{DAMAGED}{step}", ignore_errors=True)
        os.rename(self.path(step), self.directory / f"{DAMAGED}{step}")
