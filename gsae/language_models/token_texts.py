"""What single tokens look like as text, where they stand: with their spaces, and with characters put together."""

from collections.abc import Sequence

import numpy as np

from gsae.language_models.tokenizer import Tokenizer

UNKNOWN = "\ufffd"  # what is shown for bytes that are no character
MOST_TOKENS = 6  # that one character is spread over


class TokenTexts:
    """A growing table of strings, and tokens as numbers into it.

    A character that is spread over several tokens belongs to the first of them; the others are empty strings.
    """

    def __init__(self, tokenizer: Tokenizer):
        self.tokenizer, self.strings = tokenizer, [""]
        self._numbers = {"": 0}
        self._before = tokenizer.encode("a")[-1:]  # some tokenizers swallow the space before the first token of a text
        self._prefix = tokenizer.decode(self._before)

    def of_ids(self, ids: np.ndarray) -> np.ndarray:
        """Numbers of single tokens, of the shape of `ids`; an id that is no text is shown as its number."""
        known, where = np.unique(ids, return_inverse=True)
        numbers = [self._number(self._text([int(id_)]) or f"‹{id_}›") for id_ in known]
        return np.asarray(numbers, np.uint32)[where].reshape(np.shape(ids))

    def of_rows(self, tokens_NT: np.ndarray) -> np.ndarray:
        """Numbers of the tokens of texts, [N, T]."""
        numbers_NT = self.of_ids(tokens_NT)
        broken = np.asarray([UNKNOWN in text for text in self.strings])
        for n in np.flatnonzero(broken[numbers_NT].any(1)):
            self._mend(tokens_NT[n], numbers_NT[n])
        return numbers_NT

    def _mend(self, tokens_T: np.ndarray, numbers_T: np.ndarray) -> None:
        """Puts characters together that are spread over neighbouring tokens of a row."""
        t = 0
        while t < len(tokens_T):
            taken = 1
            if UNKNOWN in self.strings[numbers_T[t]]:
                for length in range(2, min(MOST_TOKENS, len(tokens_T) - t) + 1):
                    text = self._text([int(id_) for id_ in tokens_T[t : t + length]])
                    if UNKNOWN not in text:
                        numbers_T[t], numbers_T[t + 1 : t + length], taken = self._number(text), 0, length
                        break
            t += taken

    def _text(self, ids: Sequence[int]) -> str:
        text = self.tokenizer.decode([*self._before, *ids])
        return text[len(self._prefix) :] if text.startswith(self._prefix) else self.tokenizer.decode(ids)

    def _number(self, text: str) -> int:
        if text not in self._numbers:
            self._numbers[text] = len(self.strings)
            self.strings.append(text)
        return self._numbers[text]
