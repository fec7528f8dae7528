"""Local text files: finding them from paths, directories and globs, and reading the texts in them."""

import glob
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from gsae.errors import SettingError

SUFFIXES = (".txt", ".jsonl", ".parquet")
ALLOWED = f"must be {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]} files, directories of them, or globs"


def find(paths: Sequence[str]) -> list[tuple[str, Path]]:
    """The files that `paths` lead to, each once, with the name that its documents carry.

    Raises:
        SettingError: naming the path that does not exist, leads to nothing, or is of another kind.
    """
    if isinstance(paths, str) or not paths:
        raise SettingError("config.text.paths", paths, f"must be a list of paths, not empty; they {ALLOWED}")
    found: dict[Path, str] = {}
    taken: set[str] = set()
    for path in paths:
        for base, file in _expand(str(path)):
            if file.resolve() in found:
                continue
            name = file.relative_to(base).as_posix()
            name = file.as_posix() if name in taken else name
            taken.add(name)
            found[file.resolve()] = name
    return [(name, file) for file, name in found.items()]


def _expand(path: str) -> list[tuple[Path, Path]]:
    """Pairs of the directory that names start from, and a file."""
    if Path(path).is_file():
        if Path(path).suffix not in SUFFIXES:
            raise SettingError("config.text.paths", path, ALLOWED)
        return [(Path(path).parent, Path(path))]
    if Path(path).is_dir():
        base, candidates = Path(path), sorted(Path(path).rglob("*"))
    elif glob.has_magic(path):
        base, candidates = _fixed_part(path), sorted(map(Path, glob.glob(path, recursive=True)))
    else:
        raise SettingError("config.text.paths", path, f"does not exist; paths {ALLOWED}")
    files = [(base, file) for file in candidates if file.is_file() and file.suffix in SUFFIXES]
    if not files:
        raise SettingError("config.text.paths", path, f"leads to no text file; paths {ALLOWED}")
    return files


def _fixed_part(pattern: str) -> Path:
    fixed = []
    for part in Path(pattern).parts[:-1]:
        if glob.has_magic(part):
            break
        fixed.append(part)
    return Path(*fixed)


def read(path: Path, column: str) -> Iterator[tuple[str, str]]:
    """Yields the texts of one file, each with what it adds to the document's name: nothing, or `:` and its number.

    Raises:
        SettingError: naming the file that cannot be read, with the line, or the column that is not there.
    """
    try:
        if path.suffix == ".txt":
            yield "", path.read_text(encoding="utf-8")
        elif path.suffix == ".jsonl":
            yield from _read_jsonl(path, column)
        else:
            yield from _read_parquet(path, column)
    except UnicodeDecodeError as error:
        raise SettingError("config.text.paths", str(path), f"must be UTF-8 text ({error})") from error
    except OSError as error:
        raise SettingError("config.text.paths", str(path), f"cannot be read ({error})") from error


def _read_jsonl(path: Path, column: str) -> Iterator[tuple[str, str]]:
    with open(path, encoding="utf-8") as file:
        for number, line in enumerate(file):
            if not line.strip():
                continue
            where = f"line {number + 1} of {path}"
            try:
                record = json.loads(line)
            except json.JSONDecodeError as error:
                raise SettingError("config.text.paths", str(path), f"{where} is not JSON ({error})") from error
            if not isinstance(record, dict):
                raise SettingError("config.text.paths", str(path), f"{where} must be a JSON object")
            yield f":{number}", text_of(record, column, where)


def _read_parquet(path: Path, column: str) -> Iterator[tuple[str, str]]:
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            if column not in file.schema_arrow.names:
                _no_column(column, f"{path}", file.schema_arrow.names)
            number = 0
            for batch in file.iter_batches(columns=[column], batch_size=1024):
                for value in batch.column(0).to_pylist():
                    yield f":{number}", text_of({column: value}, column, f"row {number} of {path}")
                    number += 1
    except pyarrow.ArrowException as error:
        raise SettingError("config.text.paths", str(path), f"is not a readable parquet file ({error})") from error


def text_of(record: Mapping[str, Any], column: str, where: str) -> str:
    """The text of a record; a null counts as empty.

    Raises:
        SettingError: when the record has no such column, or holds something else than text there.
    """
    if column not in record:
        _no_column(column, where, list(record))
    value = record[column]
    if value is not None and not isinstance(value, str):
        raise SettingError("config.text.column", column, f"must hold text; {where} holds {type(value).__name__}")
    return value or ""


def _no_column(column: str, where: str, names: Sequence[str]) -> NoReturn:
    raise SettingError("config.text.column", column, f"{where} has only {', '.join(map(str, names)) or 'no columns'}")
