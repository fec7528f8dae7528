"""What one of several processes prints: all of it into a file of its own, and to the terminal only the first one's.

File descriptors are redirected, not only Python's streams: what XLA and gloo print goes to the file as well.
"""

import io
import logging
import os
import sys
import tempfile
from pathlib import Path
from typing import IO

LOG = logging.getLogger("gsae.process")  # lines with the time, for the file alone; with one process they go nowhere
LOG.propagate = False
LOG.addHandler(logging.NullHandler())
STDOUT, STDERR = 1, 2
READ_AT_MOST = 1 << 20  # bytes


class Terminal:
    """The terminal and the file of one process; made before anything is printed.

    Args:
        index: which process this is; the first one's output is seen.
    """

    def __init__(self, index: int):
        terminals = [os.dup(number) for number in (STDOUT, STDERR)]
        self._terminal = terminals[1]
        self._file: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - until it is known where the file may be
        self._start = 0
        seen = terminals if index == 0 else (None, None)
        sys.stdout.flush()
        sys.stderr.flush()
        sys.stdout, sys.stderr = _Stream(STDOUT, seen[0]), _Stream(STDERR, seen[1])
        self._redirect()
        handler = logging.StreamHandler(_Stream(STDERR, None))
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
        LOG.addHandler(handler)
        LOG.setLevel(logging.INFO)

    def keep_in(self, path: Path) -> None:
        """From now on the file is `path`, which grows from run to run; what was printed before comes first."""
        path.parent.mkdir(parents=True, exist_ok=True)
        before = self.printed()
        self._file = open(path, "a+b", buffering=0)  # noqa: SIM115 - open as long as the process
        self._start = os.fstat(self._file.fileno()).st_size
        self._file.write(before)
        self._redirect()

    def printed(self) -> bytes:
        """What this run has printed into the file, the last of it if it is long."""
        end = os.fstat(self._file.fileno()).st_size
        start = max(self._start, end - READ_AT_MOST)
        return os.pread(self._file.fileno(), end - start, start)

    def tell(self, line: str) -> None:
        """One line to the terminal, from any process, in one write: lines of two processes do not mix."""
        os.write(self._terminal, f"{line}\n".encode())

    def _redirect(self) -> None:
        for number in (STDOUT, STDERR):
            os.dup2(self._file.fileno(), number)


class _Stream(io.TextIOBase):
    """To a redirected descriptor, and to the terminal if it is seen; bars, which rewrite their line, only there."""

    def __init__(self, number: int, terminal: int | None):
        self._number = number
        self._terminal = None if terminal is None else os.fdopen(terminal, "w", buffering=1, closefd=False)

    def write(self, text: str) -> int:
        if "\r" not in text:
            os.write(self._number, text.encode())
        if self._terminal:
            self._terminal.write(text)
        return len(text)

    def flush(self) -> None:
        if self._terminal:
            self._terminal.flush()

    def isatty(self) -> bool:
        return bool(self._terminal and self._terminal.isatty())

    def fileno(self) -> int:
        return self._number
