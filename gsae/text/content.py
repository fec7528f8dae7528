"""What one column of a record holds: text, token ids, or the messages of a chat."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np

from gsae.errors import SettingError
from gsae.text.documents import Document

KINDS = ("text", "token_ids", "chat")


@dataclass(frozen=True)
class Content:
    """From records to documents.

    Attributes:
        kind: one of `KINDS`.
        column: the field of a record that is read.
        vocabulary: for `token_ids`: all are below this.
        render: for `chat`: messages (mappings with `role` and `content`) -> their text by the model's chat template.
    """

    kind: str = "text"
    column: str = "text"
    vocabulary: int = 0
    render: Callable[[list[dict[str, Any]]], str] | None = None

    def document(self, name: str, record: Mapping[str, Any], where: str) -> Document | None:
        """The record as a document; None when it is blank (null, white space, no tokens, no messages).

        Args:
            name: of the document.
            record: the fields by name.
            where: the record's place, for complaints.

        Raises:
            SettingError: when the record has no such column, or holds something else there.
        """
        if self.column not in record:
            no_column(self.column, where, list(record))
        value = record[self.column]
        if value is None:
            return None
        if self.kind == "token_ids":
            ids = self._ids(value, where)
            return Document(name, "", ids) if ids.size else None
        text = self._chat(value, where) if self.kind == "chat" else value
        if not isinstance(text, str):
            self._refuse("text", where, value)
        return Document(name, text) if text.strip() else None

    def _ids(self, value: Any, where: str) -> np.ndarray:
        try:
            ids = np.asarray(value)
        except ValueError:  # lists of different lengths
            ids = np.empty((0, 0))
        if isinstance(value, str) or ids.ndim != 1 or (ids.size and ids.dtype.kind not in "iu"):
            self._refuse("lists of token ids", where, value)
        if ids.size and not (ids.min() >= 0 and ids.max() < self.vocabulary):
            wrong = ids.min() if ids.min() < 0 else ids.max()
            allowed = f"{where} holds token {wrong}; the language model knows only 0 to {self.vocabulary - 1}"
            raise SettingError("config.text.column", self.column, allowed)
        return ids.astype(np.int64)

    def _chat(self, value: Any, where: str) -> str:
        messages = list(value) if isinstance(value, Sequence) and not isinstance(value, str) else None
        if messages is None or not all(isinstance(m, Mapping) and {"role", "content"} <= m.keys() for m in messages):
            self._refuse("lists of messages with role and content", where, value)
        assert self.render is not None and messages is not None
        try:
            return self.render([dict(message) for message in messages]) if messages else ""
        except Exception as error:  # whatever the model's own template raises
            reason = " ".join(str(error).split())
            allowed = f"the chat template refuses {where}: {reason}"
            raise SettingError("config.text.column", self.column, allowed) from error

    def _refuse(self, wanted: str, where: str, value: Any) -> NoReturn:
        kinds = "; config.text.content says what it holds" if isinstance(value, (str, list)) else ""
        allowed = f"must hold {wanted}; {where} holds {type(value).__name__}{kinds}"
        raise SettingError("config.text.column", self.column, allowed)


def no_column(column: str, where: str, names: Sequence[Any]) -> NoReturn:
    """Refuses a column that is not there, with those that are."""
    raise SettingError("config.text.column", column, f"{where} has only {', '.join(map(str, names)) or 'no columns'}")
