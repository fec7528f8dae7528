"""A document: one text, or the token ids that were made from one."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class Document:
    """One text and a name that is unique in its source; `ids` [n] int64 stand in its place where it came as tokens."""

    name: str
    text: str
    ids: np.ndarray | None = field(default=None, compare=False)

    @property
    def size(self) -> int:
        """Bytes of its text (UTF-8), or four for each token."""
        return len(self.text.encode("utf-8", "surrogatepass")) if self.ids is None else 4 * len(self.ids)

    @property
    def characters(self) -> int:
        """About how much work it is: characters of its text, or four for each token."""
        return len(self.text) if self.ids is None else 4 * len(self.ids)


def fingerprint(documents: Iterable[Document]) -> str:
    """SHA-256 (64 hex digits) of the names and texts, in order; lengths are part of it, so borders cannot shift."""
    digest = hashlib.sha256()
    for document in documents:
        for part in (document.name, document.text):
            data = part.encode("utf-8", errors="surrogatepass")
            digest.update(len(data).to_bytes(8, "little"))
            digest.update(data)
        if document.ids is not None:
            digest.update(document.ids.astype("<i8").tobytes())
    return digest.hexdigest()
