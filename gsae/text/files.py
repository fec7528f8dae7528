"""Local files: finding them from paths, directories and globs, and reading the records in them."""

import glob
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from gsae.errors import SettingError
from gsae.text.content import no_column

SUFFIXES = (".txt", ".jsonl", ".parquet", ".arrow")
Record = tuple[str, dict[str, Any], str]  # what it adds to the document's name, its fields, its place
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


def read(path: Path, column: str) -> Iterator[Record]:
    """Yields the records of one file: of a text file the whole of it as `column`, with nothing added to its name.

    Raises:
        SettingError: naming the file that cannot be read, with the line, or the column that is not there.
    """
    try:
        if path.suffix == ".txt":
            yield "", {column: path.read_text(encoding="utf-8")}, str(path)
        elif path.suffix == ".jsonl":
            yield from _read_jsonl(path)
        else:
            yield from _read_columns(path, column)
    except UnicodeDecodeError as error:
        raise SettingError("config.text.paths", str(path), f"must be UTF-8 text ({error})") from error
    except OSError as error:
        raise SettingError("config.text.paths", str(path), f"cannot be read ({error})") from error


def _read_jsonl(path: Path) -> Iterator[Record]:
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
            yield f":{number}", record, where


def _read_columns(path: Path, column: str) -> Iterator[Record]:
    """Parquet, and Arrow's stream format (what `datasets` saves) or file format."""
    import pyarrow

    try:
        number = 0
        for batch in (_parquet if path.suffix == ".parquet" else _arrow)(path, column):
            for value in batch.column(column).to_pylist():
                yield f":{number}", {column: value}, f"row {number} of {path}"
                number += 1
    except pyarrow.ArrowException as error:
        kind = path.suffix.removeprefix(".")
        raise SettingError("config.text.paths", str(path), f"is not a readable {kind} file ({error})") from error


def _parquet(path: Path, column: str) -> Iterator[Any]:
    import pyarrow.parquet

    with pyarrow.parquet.ParquetFile(path) as file:
        if column not in file.schema_arrow.names:
            no_column(column, str(path), file.schema_arrow.names)
        yield from file.iter_batches(columns=[column], batch_size=1024)


def _arrow(path: Path, column: str) -> Iterator[Any]:
    import pyarrow

    with pyarrow.memory_map(str(path)) as file:
        is_file_format = file.read(6) == b"ARROW1"
        file.seek(0)
        reader = pyarrow.ipc.open_file(file) if is_file_format else pyarrow.ipc.open_stream(file)
        if column not in reader.schema.names:
            no_column(column, str(path), reader.schema.names)
        yield from (reader.get_batch(i) for i in range(reader.num_record_batches)) if is_file_format else reader
