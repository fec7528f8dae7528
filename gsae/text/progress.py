"""How far the encoding is: a bar with the tokens a second, and the time left where it is known how much there is."""

import time
from collections.abc import Sequence
from types import TracebackType

from tqdm import tqdm

from gsae.text.documents import Document


class Progress:
    """A progress bar, in characters where all documents are known, otherwise in documents."""

    def __init__(
        self, *, characters: int | None = None, documents: int | None = None, done: int = 0, show: bool = True
    ):
        """Draws it.

        Args:
            characters: of all documents (`Document.characters`); None where they are not known.
            documents: how many there are; None where that is not known.
            done: how much of the one or the other is behind us.
            show: otherwise nothing is drawn.
        """
        self._in_characters = characters is not None
        unit, total = (" characters", characters) if self._in_characters else (" documents", documents)
        self._bar = tqdm(total=total, initial=done, desc="tokenise", unit=unit, unit_scale=True, disable=not show)
        self._began, self._tokens = time.monotonic(), 0

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._bar.close()

    def add(self, documents: Sequence[Document], tokens: int) -> None:
        """Counts documents that are done, and the tokens that they made; no tokens: they were another's work."""
        self._tokens += tokens
        rate = self._tokens / max(time.monotonic() - self._began, 1e-9)
        self._bar.set_postfix_str(f"{rate:,.0f} tokens/s", refresh=False)
        self._bar.update(sum(d.characters for d in documents) if self._in_characters else len(documents))
