"""Where documents come from: the standard library's own source files, local files, or a Hugging Face data set.

Names of documents do not depend on where the data lies on this machine, since the split into training and held-out
documents may be decided by them. Blank documents are left out by every source.
"""

import sys
import sysconfig
import tokenize
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from gsae.errors import SettingError
from gsae.text import files
from gsae.text.content import Content
from gsae.text.data_sets import MAIN, DataSet
from gsae.text.documents import Document

SOURCES = ("python_standard_library", "files", "hugging_face")

TEST_PACKAGES = {"test", "tests", "idle_test"}


class Reading(Protocol):
    """One way through a source's documents, always in the same order; it is gone through once."""

    total: int | None  # documents of the whole source at most, where that is known

    def __iter__(self) -> Iterator[Document]:
        """The documents from the position on at which it was opened."""
        ...

    def position(self) -> dict[str, Any]:
        """Plain values with which `Source.read` goes on after the newest document."""
        ...


class Source(Protocol):
    """Documents that can be read from any position on."""

    blamed: tuple[str, Any]  # the setting that leads to it, and its value, for complaints
    identity: Any  # plain values that change when the documents are likely to be others

    def read(self, position: Mapping[str, Any] | None = None) -> Reading:
        """A reading from the start, or from a position that an earlier reading gave."""
        ...


def open_source(
    source: str,
    *,
    paths: Sequence[str] = (),
    name: str = "",
    revision: str = MAIN,
    configuration: str = "",
    split: str = "train",
    streaming: bool = True,
    content: Content | None = None,
) -> Source:
    """The source that the settings `config.text.*` of the same names ask for.

    Args:
        source: one of `SOURCES`.
        paths: for `files`: files, directories, globs.
        name: for `hugging_face`, and the following ones: see `DataSet`.
        revision: branch, tag or commit of a hub id.
        configuration: one of the data set's configurations.
        split: the data set's split.
        streaming: reads the data set as it arrives.
        content: what records hold; by default text in a column `text`.

    Raises:
        SettingError: naming the `config.text` setting that is wrong.
    """
    content = content or Content()
    if source == "python_standard_library":
        if content.kind != "text":
            raise SettingError("config.text.content", content.kind, f"the source {source} holds text")
        return StandardLibrary()
    if source == "files":
        return LocalFiles(paths, content)
    if source == "hugging_face":
        return DataSet(
            name,
            revision=revision,
            configuration=configuration,
            split=split,
            streaming=streaming,
            content=content,
        )
    raise SettingError("config.text.source", source, f"must be one of {', '.join(SOURCES)}")


class StandardLibrary:
    """`python_standard_library` as a source."""

    def __init__(self) -> None:
        self.blamed = "config.text.source", "python_standard_library"
        self.identity = sys.version

    def read(self, position: Mapping[str, Any] | None = None) -> Reading:
        """Reads all of it now, and begins at the position's document."""
        return _Listed(python_standard_library(), position["document"] if position else 0)


class _Listed:
    def __init__(self, documents: Sequence[Document], start: int):
        self._documents, self._next = documents, start
        self.total: int | None = len(documents)

    def position(self) -> dict[str, Any]:
        return {"document": self._next}

    def __iter__(self) -> Iterator[Document]:
        while self._next < len(self._documents):
            self._next += 1
            yield self._documents[self._next - 1]


class LocalFiles:
    """Documents of txt (one a file), jsonl (one a line), parquet and arrow (one a row) files, in the order of `paths`.

    Documents are named by the file's name, relative to the directory or to the fixed part of the glob that led to it;
    records add `:` and their number from 0.
    """

    def __init__(self, paths: Sequence[str], content: Content):
        """Finds the files.

        Args:
            paths: files, directories (searched through, sorted by name) or globs (`data/**/*.jsonl`).
            content: what the records hold.

        Raises:
            SettingError: naming the path that leads nowhere.
        """
        self.files, self.content = files.find(paths), content
        self.blamed = "config.text.paths", ", ".join(map(str, paths))
        self.identity = [[name, path.stat().st_size] for name, path in self.files]

    def read(self, position: Mapping[str, Any] | None = None) -> Reading:
        """Begins at the position's file; what is before its record there is passed over."""
        return _FromFiles(self, position or {"file": 0, "record": 0})


class _FromFiles:
    def __init__(self, source: LocalFiles, position: Mapping[str, Any]):
        self._source, self._file, self._record = source, position["file"], position["record"]
        self.total: int | None = len(source.files) if all(path.suffix == ".txt" for _, path in source.files) else None

    def position(self) -> dict[str, Any]:
        return {"file": self._file, "record": self._record}

    def __iter__(self) -> Iterator[Document]:
        content, passed_over = self._source.content, self._record
        while self._file < len(self._source.files):
            name, path = self._source.files[self._file]
            for self._record, (suffix, record, where) in enumerate(files.read(path, content.column), 1):
                if self._record > passed_over and (document := content.document(name + suffix, record, where)):
                    yield document
            self._file, self._record, passed_over = self._file + 1, 0, 0


def python_standard_library() -> list[Document]:
    """The source files of the running interpreter's standard library, sorted by name (`asyncio/base_events.py`).

    Only top-level modules that the interpreter itself lists as its own count, so that neither site-packages nor files
    that a distribution or an image put beside them (`sitecustomize.py`, `_sysconfigdata_*`) change the result. Left out
    besides: tests, and files that are not text in the encoding that they declare (the grammar's own torture tests).
    """
    root = Path(sysconfig.get_path("stdlib"))
    documents = []
    for module in sorted(sys.stdlib_module_names):
        for path in [root / f"{module}.py", *(root / module).rglob("*.py")]:
            name = path.relative_to(root)
            if path.is_file() and not _is_test(name) and (text := _declared_text(path)).strip():
                documents.append(Document(name.as_posix(), text))
    return sorted(documents, key=lambda document: document.name)


def _is_test(name: Path) -> bool:
    return (
        bool(TEST_PACKAGES.intersection(name.parts[:-1]))
        or name.stem.startswith("test_")
        or name.stem.endswith("_test")
    )


def _declared_text(path: Path) -> str:
    """A source file's text by the encoding that it declares; nothing when it is not in that encoding."""
    try:
        with tokenize.open(path) as file:
            return file.read()
    except (SyntaxError, UnicodeDecodeError):
        return ""
