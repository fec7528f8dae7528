"""Trains the byte-level BPE tokenizer of a language model that is trained here."""

from collections.abc import Iterable, Sequence

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

SEPARATOR = "<|endoftext|>"  # stands before every document; id 0, as in Pythia


def train_tokenizer(texts: Iterable[str], vocabulary: int) -> Tokenizer:
    """A byte-level BPE tokenizer (Radford et al. 2019, section 2.2) of `vocabulary` entries with the separator."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[SEPARATOR],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def joined_tokens(tokenizer: Tokenizer, texts: Sequence[str]) -> np.ndarray:
    """All texts in one row of ids (int32), the separator before each."""
    separator = [tokenizer.token_to_id(SEPARATOR)]
    encoded = tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
    return np.concatenate([np.array(separator + encoding.ids, np.int32) for encoding in encoded])
