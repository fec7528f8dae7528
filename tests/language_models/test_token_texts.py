"""Tokens as text: spaces kept, characters over several tokens put together, nothing lost."""

import numpy as np

from gsae.language_models.loading import load_language_model
from gsae.language_models.token_texts import TokenTexts


class Bytes:
    """A tokenizer with a token for every byte, which like some swallows the space before the first token."""

    def encode(self, text):
        return list(text.encode())

    def decode(self, ids):
        return bytes(i for i in ids if i < 256).decode("utf-8", "replace").removeprefix(" ")


def texts_of(table, ids):
    return [table.strings[number] for number in table.of_rows(np.asarray([ids]))[0]]


def test_characters_over_several_tokens_belong_to_the_first():
    text = " aé\n€ 🙂!"
    table = TokenTexts(Bytes())
    ids = Bytes().encode(text)
    assert texts_of(table, ids) == [" ", "a", "é", "", "\n", "€", "", "", " ", "🙂", "", "", "", "!"]
    broken = [0xE2, 0x82, *b"x", 0xFF, 300]
    assert texts_of(table, broken) == ["�", "�", "x", "�", "‹300›"]
    assert list(table.of_ids(np.array([[ids[1], ids[1]]]))[0]) == [table.strings.index("a")] * 2


def test_the_bundled_model_s_tokens_add_up_to_the_text():
    language_model = load_language_model("bundled")
    text = "def f(x):\n    return 'naïve ' + x  # <b>✓</b>\n"
    ids = language_model.tokenizer.encode(text)
    assert "".join(texts_of(TokenTexts(language_model.tokenizer), ids)) == text
