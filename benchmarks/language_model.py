"""How well a language model predicts the held-out part of the standard library, beside n-grams and a compressor.

    python benchmarks/language_model.py [--model=bundled] [--held-out-fraction=0.1]

All predict the same held-out documents; the n-grams are counted on the training documents, in the model's own tokens.
They are interpolated with modified Kneser-Ney smoothing (Chen and Goodman 1999, section 3), whose discounts follow
from the counts. xz sees nothing but the held-out text itself. Prints a table in Markdown; takes about two minutes.
"""

import argparse
import lzma
import math
import time

import jax
import numpy as np
import optax
from flax import nnx

from gsae.language_models.loading import LanguageModel, load_language_model
from gsae.text.documents import Document
from gsae.text.sources import python_standard_library
from gsae.text.splits import split_documents

NGRAMS = {"unigram": 1, "bigram, interpolated": 2, "5-gram, interpolated Kneser-Ney": 5}


def joined(language_model: LanguageModel, documents: list[Document]) -> np.ndarray:
    """All documents in one row of ids, the separator before each."""
    separator = [] if language_model.separator_id is None else [language_model.separator_id]
    encoded = language_model.tokenizer.encode_batch([document.text for document in documents])
    return np.concatenate([np.array(separator + ids, np.int64) for ids in encoded])


def model_nats(language_model: LanguageModel, tokens: np.ndarray, batch_size: int = 16) -> float:
    """-log p a token, in nats, in consecutive windows of the context length; each window starts without a past."""
    length = language_model.settings.context_length
    starts = np.arange((len(tokens) - 1) // length) * length
    rows = tokens[starts[:, None] + np.arange(length + 1)].astype(np.int32)
    graph, state = nnx.split(language_model.model)

    @jax.jit
    def losses(state, rows):
        logits = nnx.merge(graph, state)(rows[:, :-1])
        return optax.softmax_cross_entropy_with_integer_labels(logits, rows[:, 1:])

    total = 0.0
    for start in range(0, len(rows), batch_size):
        batch = rows[start : start + batch_size]
        padded = np.concatenate([batch, np.repeat(batch[:1], batch_size - len(batch), 0)])
        total += float(np.asarray(losses(state, padded))[: len(batch)].sum(dtype=np.float64))
    return total / rows[:, 1:].size


def grams(tokens: np.ndarray, order: int, vocabulary: int) -> np.ndarray:
    """One number for each run of `order` tokens that ends at a token; the row begins with `order - 1` zeros."""
    padded = np.concatenate([np.zeros(order - 1, np.int64), tokens])
    key = np.zeros(len(tokens), np.int64)
    for i in range(order):
        key = key * vocabulary + padded[i : i + len(tokens)]
    return key


class Order:
    """Counts of one order of the Kneser-Ney model: grams, and what their contexts give away to lower orders."""

    def __init__(self, keys: np.ndarray, counts: np.ndarray, vocabulary: int):
        self.keys, self.counts, self.vocabulary = keys, counts, vocabulary
        contexts = keys // vocabulary
        self.contexts, first = np.unique(contexts, return_index=True)
        self.totals = np.add.reduceat(counts, first)
        n1, n2, n3, n4 = (max(1, int((counts == i).sum())) for i in (1, 2, 3, 4))
        y = n1 / (n1 + 2 * n2)
        discounts = np.clip([0, 1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3], 0, [0, 1, 2, 3])
        self.discount = discounts[np.minimum(counts, 3)]
        self.given_away = np.add.reduceat(self.discount, first)

    def probability(self, wanted: np.ndarray, lower: np.ndarray) -> np.ndarray:
        """p(last token | the tokens before it) of grams, given what the next lower order says."""
        context = np.searchsorted(self.contexts, wanted // self.vocabulary).clip(max=len(self.contexts) - 1)
        known = self.contexts[context] == wanted // self.vocabulary
        gram = np.searchsorted(self.keys, wanted).clip(max=len(self.keys) - 1)
        mass = np.where(self.keys[gram] == wanted, self.counts[gram] - self.discount[gram], 0.0)
        here = (mass + self.given_away[context] * lower) / self.totals[context]
        return np.where(known, here, lower)


def ngram_nats(train: np.ndarray, held_out: np.ndarray, order: int, vocabulary: int) -> float:
    """-log p a token of the held-out row (its first token left out), in nats."""
    if vocabulary**order > 2**63:
        raise ValueError(f"{order}-grams of {vocabulary} tokens do not fit 63 bits")
    highest, counts = np.unique(grams(train, order, vocabulary), return_counts=True)
    orders = [Order(highest, counts, vocabulary)]
    for k in range(order - 1, 0, -1):
        # Below the highest order a gram counts once for every token that it has been seen after.
        types = np.unique(grams(train, k + 1, vocabulary)) if k < order - 1 else highest
        orders.append(Order(*np.unique(types % vocabulary**k, return_counts=True), vocabulary))
    probability = np.full(len(held_out), 1 / vocabulary)
    for k, counted in enumerate(reversed(orders), 1):
        probability = counted.probability(grams(held_out, k, vocabulary), probability)
    return float(-np.log(probability[1:]).mean())


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="bundled", help="bundled, a directory or a hub id")
    parser.add_argument("--held-out-fraction", type=float, default=0.1)
    arguments = parser.parse_args()
    language_model = load_language_model(arguments.model)
    sides = split_documents(python_standard_library(), arguments.held_out_fraction)
    train, held_out = (joined(language_model, side) for side in sides)
    data = "".join(document.text for document in sides[1]).encode("utf-8", "surrogatepass")
    print(f"{len(train):,} training tokens; {len(held_out):,} held out, {len(data):,} bytes\n")
    print("| | nats a token | bits a byte | seconds |\n|---|---|---|---|")

    def line(name: str, nats: float, began: float) -> None:
        bits = nats * (len(held_out) - 1) / len(data) / math.log(2)
        print(f"| {name} | {nats:.3f} | {bits:.3f} | {time.monotonic() - began:.0f} |", flush=True)

    for name, order in NGRAMS.items():
        began = time.monotonic()
        line(name, ngram_nats(train, held_out, order, language_model.settings.vocabulary), began)
    began = time.monotonic()
    bits = 8 * len(lzma.compress(data, preset=9)) / len(data)
    print(f"| xz -9 | | {bits:.3f} | {time.monotonic() - began:.0f} |", flush=True)
    began = time.monotonic()
    line(f"{arguments.model} model", model_nats(language_model, held_out), began)


if __name__ == "__main__":
    main()
