"""Checkpoints: written by Orbax in the background, digested by us, published whole, verified when they are read.

Orbax restores flipped bits silently, so every checkpoint carries a SHA-256 of every array shard, taken from a copy made
when the save began, and of every file. A checkpoint is written aside and renamed once all of it is on the disk: what a
killed process leaves behind does not count.
"""

import concurrent.futures
import contextlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from gsae import __version__, artifacts
from gsae.errors import Interrupted, RunError, SettingError
from gsae.places import BucketPath, Place
from gsae.processes.waiting import wait_for_all
from gsae.training.bucket_shelf import BucketShelf
from gsae.training.digests import HostShards, digest, digests_of_all, flushed_files, host_copies, verify_files
from gsae.training.saved_arrays import named_arrays, read_arrays, verify_arrays
from gsae.training.shelves import DirectoryShelf

STATE = "state"


class Checkpoints:
    """The checkpoints of one training run, in one directory or place of a bucket that all processes see.

    Args:
        directory: where they are; made if missing.
        every: `due` is true at multiples of so many steps; 0 for never.
        keep: the newest so many stay.
        keep_every: those at multiples of so many steps stay too; 0 for none.
        settings: fingerprint of what must be equal for a checkpoint to be continued.

    Raises:
        RunError: when the directory cannot be written.
        SettingError: for a bucket that Orbax cannot write to.
    """

    def __init__(self, directory: Place, *, every: int, keep: int = 2, keep_every: int = 0, settings: str = ""):
        import orbax.checkpoint as ocp  # heavy: only a run that trains pays for it

        self._shelf = shelf(directory)
        self.directory, self.settings = self._shelf.directory, settings
        self.every, self.keep, self.keep_every = every, keep, keep_every
        self._shelf.prepare()
        wait_for_all("checkpoints")
        self._orbax = ocp.AsyncCheckpointer(ocp.PyTreeCheckpointHandler(), timeout_secs=3600)
        self._worker = concurrent.futures.ThreadPoolExecutor(1, "checkpoint")
        self._saving: concurrent.futures.Future[None] | None = None

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind: Any, *exception: Any) -> None:
        if kind not in (None, Interrupted) and jax.process_count() > 1:
            return  # a save needs all processes, and they are ending: it stays unpublished
        self.close()

    def due(self, step: int) -> bool:
        """Whether the state after `step` updates is one to keep."""
        return self.every > 0 and step > 0 and step % self.every == 0

    def steps(self) -> list[int]:
        """The steps of the published checkpoints, oldest first; damaged ones are among them until they are read."""
        return self._shelf.steps()

    def save(self, step: int, states: Any, about: Mapping[str, Any] | None = None) -> None:
        """Begins to save the state after `step` updates; returns once it is copied to the host.

        Args:
            step: updates made.
            states: a pytree of jax.Arrays; they may be donated as soon as this returns.
            about: plain values that come back with the state.

        Raises:
            RunError: when the save before this one failed (a full disk).
        """
        import orbax.checkpoint as ocp

        self.wait()
        arrays = named_arrays(states)
        aside = self._shelf.aside(step)
        with self._explained(step):
            if jax.process_index() == 0:
                self._shelf.begin(step)
            wait_for_all("checkpoint")
            copies = host_copies(arrays)
            try:
                self._orbax.save(str(aside / STATE), args=ocp.args.PyTreeSave(arrays))
            except Exception:
                with contextlib.suppress(Exception):  # what it began fails by itself, and `close` would raise that
                    self._orbax.wait_until_finished()
                raise
        manifest = {
            "step": step,
            "settings": self.settings,
            "about": dict(about or {}),
            "versions": {"gsae": __version__, "jax": jax.__version__, "orbax": ocp.__version__},
            "arrays": {name: {"dtype": str(a.dtype), "shape": list(a.shape)} for name, a in arrays.items()},
        }
        self._saving = self._worker.submit(self._finish, step, aside, copies, manifest)

    def wait(self) -> None:
        """Waits for the save in flight; raises its RunError."""
        if self._saving is not None:
            saving, self._saving = self._saving, None
            saving.result()

    def check(self) -> None:
        """Raises the RunError of a save that failed meanwhile; never waits."""
        if self._saving is not None and self._saving.done():
            self.wait()

    def close(self) -> None:
        """Waits for the save in flight and ends the threads."""
        try:
            self.wait()
        finally:
            self._worker.shutdown()
            self._orbax.close()

    def restore_newest(self, targets: Any, say: Any = print) -> tuple[int, Any, dict[str, Any]] | None:
        """The newest checkpoint whose every byte is as it was written; None where there is none yet.

        Args:
            targets: a pytree of arrays or of jax.ShapeDtypeStructs with shardings, like the `states` saved; the mesh
                may be another. Where only the leading axis has another length than was saved (a sweep padded for
                another mesh), the array comes back with the saved length, that axis not split.
            say: takes the one line about each damaged checkpoint that was passed over.

        Returns:
            step, states, about.

        Raises:
            RunError: when there are checkpoints and all are damaged.
            SettingError: when the newest readable one was made with other settings.
        """
        problems: dict[int, str] = {}
        for step in reversed(self.steps()):
            try:
                states, about = self._restore(step, targets)
            except SettingError:
                raise
            except Exception as error:  # altered bytes make Orbax and TensorStore raise nearly anything
                _together(self._shelf.steps)  # a bucket that is out of reach is no damage: raises that
                problems[step] = _first_line(error)
                say(f"{self._shelf.path(step)}: damaged, not used ({problems[step]})")
                continue
            # Only now: if none is good, the next start must find them all again instead of an empty directory.
            for bad in problems if jax.process_index() == 0 else ():
                self._shelf.set_aside(bad)
            return step, states, about
        if problems:
            raise RunError(
                f"{self.directory}: every checkpoint is damaged; remove the directory to train from the start"
            )
        return None

    @contextlib.contextmanager
    def _explained(self, step: int) -> Any:
        """Turns whatever Orbax raises into one line."""
        try:
            yield
        except RunError:
            raise
        except Exception as error:
            place = self._shelf.path(step)
            raise RunError(f"{place}: the checkpoint could not be saved ({_first_line(error)})") from error

    def _finish(self, step: int, aside: Place, copies: HostShards, manifest: dict) -> None:
        """In the background: digests, waits for Orbax, publishes, forgets the oldest."""
        with self._explained(step), artifacts.explained(aside):
            try:
                digests = {name: {key: digest(part) for key, part in parts.items()} for name, parts in copies.items()}
                copies.clear()
                artifacts.write_json(aside / f"digests-{jax.process_index()}.json", digests)
                self._orbax.wait_until_finished()
                if jax.process_index() != 0:
                    return
                for part in digests_of_all(aside):
                    for name, shards in part.items():
                        manifest["arrays"][name].setdefault("shards", {}).update(shards)
                manifest["files"] = flushed_files(aside)
                self._shelf.publish(step, manifest | {"sha256": artifacts.fingerprint(manifest)})
            except BaseException:
                self._shelf.abandon(step)
                raise
            self._forget(step)

    def _forget(self, newest: int) -> None:
        for step in [step for step in self.steps() if step <= newest][: -self.keep]:
            if not (self.keep_every and step % self.keep_every == 0):
                self._shelf.forget(step)

    def _restore(self, step: int, targets: Any) -> tuple[Any, dict[str, Any]]:
        """States and `about` of one checkpoint; raises in all processes what one of them finds wrong."""
        wanted = named_arrays(targets)
        manifest = _together(lambda: self._verified_manifest(self._shelf.path(step)))
        arrays = _together(lambda: read_arrays(self._shelf.path(step) / STATE, wanted, manifest["arrays"]))
        _together(lambda: verify_arrays(arrays, manifest["arrays"]))
        return jax.tree.unflatten(jax.tree.structure(targets), [arrays[name] for name in wanted]), manifest["about"]

    def _verified_manifest(self, path: Place) -> dict[str, Any]:
        manifest = artifacts.read_manifest(path)
        if manifest is None:
            raise RunError(f"{artifacts.MANIFEST} is missing")
        if manifest.pop("sha256", None) != artifacts.fingerprint(manifest):
            raise RunError(f"{artifacts.MANIFEST} is not what was written: SHA-256 differs")
        verify_files(path, manifest["files"])
        if self.settings and manifest["settings"] != self.settings:
            allowed = f"{path} was made with other settings; use another --workdir"
            raise SettingError("config", self.settings[:12], allowed)
        return manifest


def shelf(directory: Place) -> DirectoryShelf | BucketShelf:
    """What keeps checkpoints in a directory, or in a place of a bucket."""
    return BucketShelf(directory) if isinstance(directory, BucketPath) else DirectoryShelf(directory)


def _together(work: Callable[[], Any]) -> Any:
    """What `work` gives; where it fails in one process it fails in all, so that none waits for the others."""
    result, error = None, None
    try:
        result = work()
    except Exception as raised:
        error = raised
    if jax.process_count() > 1 and not np.all(multihost_utils.process_allgather(np.asarray(error is None))):
        error = error or RunError("another process found it damaged")
    if error is not None:
        raise error
    return result


def _first_line(error: BaseException) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0][:300]
