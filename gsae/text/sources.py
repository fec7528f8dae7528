"""Where text comes from: the standard library's own source files, local files, or a Hugging Face data set.

Every source gives documents with a name and a text. Names do not depend on where the data lies on this machine, since
the split into training and held-out documents is decided by them. Empty documents are left out by every source.
"""

import hashlib
import itertools
import sys
import sysconfig
import tokenize
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from gsae.errors import RunError, SettingError
from gsae.text import files

SOURCES = ("python_standard_library", "files", "hugging_face")

TEST_PACKAGES = {"test", "tests", "idle_test"}


@dataclass(frozen=True)
class Document:
    """One text and a name that is unique in its source."""

    name: str
    text: str


def read_documents(
    source: str,
    *,
    paths: Sequence[str] = (),
    name: str = "",
    configuration: str | None = None,
    split: str = "train",
    column: str = "text",
    streaming: bool = True,
    max_documents: int | None = None,
) -> list[Document]:
    """The documents that the settings `config.text.*` of the same names ask for, all in memory.

    Args:
        source: one of `SOURCES`.
        paths: for `files`: files, directories, globs.
        name: for `hugging_face`: the data set, on the hub or in a directory; likewise `configuration`, `split`.
        configuration: one of the data set's configurations; None for its only one.
        split: the data set's split, slices such as `train[:1000]` included unless streaming.
        column: the field of jsonl, parquet and data-set records that holds the text.
        streaming: reads the data set as it arrives instead of downloading it first.
        max_documents: reads no more than these; None for all.

    Raises:
        SettingError: naming the `config.text` setting that is wrong, also when there is no text at all.
    """
    if max_documents is not None and max_documents < 1:
        raise SettingError("config.text.max_documents", max_documents, "must be at least 1, or None for all")
    if source == "python_standard_library":
        documents: Iterable[Document] = python_standard_library()
        blamed, value = "config.text.source", source
    elif source == "files":
        documents = _local_documents(paths, column)
        blamed, value = "config.text.paths", ", ".join(map(str, paths))
    elif source == "hugging_face":
        documents = hugging_face(name, configuration=configuration, split=split, column=column, streaming=streaming)
        blamed, value = "config.text.name", name
    else:
        raise SettingError("config.text.source", source, f"must be one of {', '.join(SOURCES)}")
    read = list(itertools.islice(documents, max_documents))
    if not read:
        raise SettingError(blamed, value, "holds no text; at least one document that is not blank is needed")
    return read


def fingerprint(documents: Iterable[Document]) -> str:
    """SHA-256 (64 hex digits) of the names and texts, in order; lengths are part of it, so borders cannot shift."""
    digest = hashlib.sha256()
    for document in documents:
        for part in (document.name, document.text):
            data = part.encode("utf-8", errors="surrogatepass")
            digest.update(len(data).to_bytes(8, "little"))
            digest.update(data)
    return digest.hexdigest()


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


def local_files(paths: Sequence[str], *, column: str = "text") -> list[Document]:
    """Documents of txt (one a file), jsonl (one a line) and parquet (one a row) files, in the order of `paths`.

    Args:
        paths: files, directories (searched through, sorted by name) or globs (`data/**/*.jsonl`).
        column: the field of jsonl and parquet records that holds the text.

    Returns:
        Documents named by the file's name, relative to the directory or to the fixed part of the glob that led to it;
        records add `:` and their number from 0. Blank texts are left out.

    Raises:
        SettingError: naming the file or the column, and what is allowed.
    """
    return list(_local_documents(paths, column))


def _local_documents(paths: Sequence[str], column: str) -> Iterator[Document]:
    for name, path in files.find(paths):
        for suffix, text in files.read(path, column):
            if text.strip():
                yield Document(name + suffix, text)


def hugging_face(
    name: str,
    *,
    configuration: str | None = None,
    split: str = "train",
    column: str = "text",
    streaming: bool = True,
    max_documents: int | None = None,
) -> Iterator[Document]:
    """Documents of a data set that `datasets.load_dataset` can load: on the hub, or a local directory of data files.

    Documents are named `<split>:<row>` (rows count from 0); blank texts are left out.

    Raises:
        SettingError: when the data set cannot be reached or lacks the configuration, split or column.
        RunError: when it can no longer be read on the way.
    """
    rows = _rows(_open_data_set(name, configuration, split, streaming), name)
    documents = (
        Document(f"{split}:{number}", text)
        for number, row in enumerate(rows)
        if (text := files.text_of(row, column, f"row {number} of {name}")).strip()
    )
    return itertools.islice(documents, max_documents)


def _open_data_set(name: str, configuration: str | None, split: str, streaming: bool) -> Iterable[dict]:
    if not name:
        raise SettingError("config.text.name", name, "must be a data set on the Hugging Face hub or a local directory")
    import datasets  # slow to import, and only this source needs it

    try:
        return datasets.load_dataset(name, configuration, split=split, streaming=streaming)
    except Exception as error:  # the library, its hub client and its HTTP client share no base class
        reason = _one_line(error)
        setting, value = "config.text.name", name
        if "split" in reason.lower():
            setting, value = "config.text.split", split
        elif "BuilderConfig" in reason or "config name" in reason.lower():
            setting, value = "config.text.configuration", str(configuration)
        raise SettingError(setting, value, f"the data set {name} could not be opened: {reason}") from error


def _rows(data_set: Iterable[dict], name: str) -> Iterator[dict]:
    number = 0
    try:
        for row in data_set:
            yield row
            number += 1
    except Exception as error:  # as above: whatever the network or a broken file makes of it
        raise RunError(f"the data set {name} could not be read past row {number}: {_one_line(error)}") from error


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
