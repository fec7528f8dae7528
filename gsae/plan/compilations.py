"""Programs compiled beside each other, in threads, and what came of them kept on the disk.

A program is looked up by its text: the same step with other coefficients, or another price, is not compiled again.
"""

import contextlib
import hashlib
import importlib.metadata
import json
import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any

from gsae import artifacts
from gsae.errors import RunError
from gsae.plan.compiler import Compiled, Program
from gsae.plan.topology import Topology

AT_ONCE = 8  # a compiler takes 1 to 2 GB for each large program


def default_directory() -> Path:
    """Where results are kept unless a command says otherwise."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gsae" / "plan"


class Compilations:
    """The compiler of a machine at work on several programs at once; those of the same text share what it makes.

    Args:
        topology: the machine, with devices to compile for.
        thorough: whether everything is compiled as for a run; else a TPU's programs are compiled quickly, and once more
            thoroughly where the quick one does not fit.
        directory: where results are kept; None: nowhere.

    Attributes:
        reused: how many programs an earlier plan had compiled.
    """

    def __init__(self, topology: Topology, thorough: bool = False, directory: Path | None = None):
        self.quick = topology.has_effort and not thorough
        self.reused = 0
        self._directory = directory
        self._key = {
            "topology": topology.name,
            "quick": self.quick,
            "versions": [_version(name) for name in ("gsae", "jax", "jaxlib", "libtpu")],
        }
        self._started: dict[str, Callable[[], Compiled]] = {}
        self._pool = ThreadPoolExecutor(min(AT_ONCE, os.cpu_count() or 1), thread_name_prefix="compiler")

    def __enter__(self) -> "Compilations":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    def start(self, program: Program) -> Callable[[], Compiled]:
        """Begins to compile, if nobody has; the result waits until it is there."""
        digest = self._digest(program)
        if digest not in self._started:
            path = self._directory / f"{digest}.json" if self._directory else None
            kept = _read(path) if path else None
            if kept is not None:
                self.reused += 1
                self._started[digest] = lambda: kept
            else:
                running: Future[Compiled] = self._pool.submit(self._compile, program, path)
                self._started[digest] = running.result
        return self._started[digest]

    def _compile(self, program: Program, path: Path | None) -> Compiled:
        found = program.compile(self.quick)
        if found.refused and self.quick:
            found = program.compile()
        if path:
            with contextlib.suppress(RunError):  # a home directory that cannot be written: compiled again next time
                artifacts.write_file(path, json.dumps(found.plain()))
        return found

    def _digest(self, program: Program) -> str:
        """Of what it says, and of all that decides what comes of it."""
        key = self._key | {"devices": program.devices, "mesh": list(program.mesh_shape.items())}
        digest = hashlib.sha256(program.lowered.as_text().encode())
        digest.update(artifacts.canonical_json(key).encode())
        return digest.hexdigest()


def _read(path: Path) -> Compiled | None:
    try:
        given: Any = json.loads(path.read_text())
        return Compiled.of_plain(given)
    except (OSError, ValueError, TypeError, KeyError):
        return None  # not there, or not ours


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""
