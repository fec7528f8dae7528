"""Data sets that the `datasets` library reads: on the hub, in a local directory of data files, or saved by itself."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from gsae.errors import RunError, SettingError
from gsae.text.content import Content, no_column
from gsae.text.documents import Document

MAIN = "main"  # the revision where none is asked for


class DataSet:
    """A data set as a source. Documents are named `<split>:<row>`; rows count from 0, blank ones too."""

    def __init__(
        self, name: str, *, configuration: str, split: str, streaming: bool, content: Content, revision: str = MAIN
    ):
        """Nothing is opened yet.

        Args:
            name: its hub id, a directory of data files, or one that `save_to_disk` wrote.
            configuration: one of its configurations; empty for its only one.
            split: one of its splits; unless streaming also a slice such as `train[:1000]`.
            streaming: reads it as it arrives instead of downloading it first.
            content: what its rows hold.
            revision: branch, tag or commit of a hub id. A commit is the only name of text that never changes.
        """
        self.name, self.configuration, self.split, self.streaming = name, configuration, split, streaming
        self.content, self.revision = content, revision
        self.blamed = "config.text.name", name
        self.identity = [name, configuration, split] + ([] if revision == MAIN else [revision])

    def read(self, position: Mapping[str, Any] | None = None) -> "_Rows":
        """Opens it, at a position that an earlier reading gave.

        Raises:
            SettingError: when the data set cannot be reached or lacks the configuration, split or column.
        """
        return _Rows(self, _open(self), position)


class _Rows:
    """One reading. `datasets` itself knows the way back to a position, through files and row groups."""

    def __init__(self, source: DataSet, data_set: Any, position: Mapping[str, Any] | None):
        self._source, self._number = source, 0
        self.total = _length(data_set)
        columns = data_set.column_names
        if columns and source.content.column not in columns:
            no_column(source.content.column, source.name, columns)
        self._rows = data_set.to_iterable_dataset() if hasattr(data_set, "to_iterable_dataset") else data_set
        if columns:  # the others are not decoded
            self._rows = self._rows.select_columns([source.content.column])
        if position:
            self._number = position["row"]
            self._rows.load_state_dict(position["state"])

    def position(self) -> dict[str, Any]:
        """Where the document after the newest one is looked for."""
        return {"row": self._number, "state": self._rows.state_dict()}

    def __iter__(self) -> Iterator[Document]:
        source, rows = self._source, iter(self._rows)
        while True:
            try:
                row = next(rows)
            except StopIteration:
                return
            except Exception as error:  # whatever the network or a broken file makes of it
                allowed = f"the data set {source.name} could not be read past row {self._number}: {_one_line(error)}"
                raise RunError(allowed) from error
            self._number += 1
            number = self._number - 1
            document = source.content.document(f"{source.split}:{number}", row, f"row {number} of {source.name}")
            if document:
                yield document


def _open(source: DataSet) -> Any:
    name, configuration, split = source.name, source.configuration, source.split
    if not name:
        raise SettingError("config.text.name", name, "must be a data set on the Hugging Face hub or a local directory")
    import datasets  # slow to import, and only this source needs it

    if any((Path(name) / marker).is_file() for marker in ("state.json", "dataset_dict.json")):
        return _open_saved(source)
    try:
        revision = {} if Path(name).exists() or source.revision == MAIN else {"revision": source.revision}
        return datasets.load_dataset(name, configuration or None, split=split, streaming=source.streaming, **revision)
    except Exception as error:  # the library, its hub client and its HTTP client share no base class
        reason = _one_line(error)
        setting, value = "config.text.name", name
        if "revision" in reason.lower():
            setting, value = "config.text.revision", source.revision
        elif "split" in reason.lower():
            setting, value = "config.text.split", split
        elif "BuilderConfig" in reason or "config name" in reason.lower():
            setting, value = "config.text.configuration", configuration
        raise SettingError(setting, value, f"the data set {name} could not be opened: {reason}") from error


def _open_saved(source: DataSet) -> Any:
    """A directory that `Dataset.save_to_disk` or `DatasetDict.save_to_disk` wrote."""
    import datasets

    if source.configuration:
        allowed = f"must be empty: {source.name} was saved by datasets and has no configurations"
        raise SettingError("config.text.configuration", source.configuration, allowed)
    try:
        saved = datasets.load_from_disk(source.name)
    except Exception as error:  # damaged in any way
        allowed = f"is not a readable directory saved by datasets: {_one_line(error)}"
        raise SettingError("config.text.name", source.name, allowed) from error
    splits = saved if isinstance(saved, datasets.DatasetDict) else {str(saved.split or "train"): saved}
    if source.split not in splits:
        raise SettingError("config.text.split", source.split, f"{source.name} has only {', '.join(splits)}")
    return splits[source.split]


def _length(data_set: Any) -> int | None:
    """Rows of the data set, where it says so without being read."""
    if hasattr(data_set, "num_rows"):
        return data_set.num_rows
    entry = (data_set.info.splits or {}).get(str(data_set.split))
    return entry.num_examples or None if entry else None


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
