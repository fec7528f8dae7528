"""Training and held-out documents: near-duplicates are found by content and stay together on one side.

With all documents in memory (`held_out_documents`) every two are compared, and the share of held-out bytes is as asked.
A stream of any length (`is_held_out`) is decided one document at a time, by the smallest of its n-grams' hashes: no
memory, no order, any number of processes. Two documents have that in common with the probability J of their Jaccard
similarity (MinHash: Broder 1997), so equal ones are always on one side, and others are on different sides with a
probability of at most 2 p (1 - p) (1 - J), p being the held-out fraction. What neither does: find passages that are
quoted in otherwise different documents.
"""

import hashlib
import re
import zlib
from collections.abc import Iterator, Sequence
from itertools import count

import numpy as np

from gsae.errors import SettingError
from gsae.text.documents import Document

TOKEN = re.compile(r"\w+|[^\w\s]")
N = 13  # tokens of an n-gram
PAIRS_AT_ONCE = 1 << 22
# A group with more than this share of the held-out bytes would be no sample of the text but most of it.
LARGEST_SHARE_OF_HELD_OUT = 0.25


def split_documents(
    documents: Sequence[Document], held_out_fraction: float, salt: str = ""
) -> tuple[list[Document], list[Document]]:
    """The training and the held-out documents, each in the order of `documents`, by `held_out_documents`."""
    held = held_out_documents(documents, held_out_fraction, salt)
    train = [document for i, document in enumerate(documents) if i not in held]
    return train, [document for i, document in enumerate(documents) if i in held]


def held_out_documents(documents: Sequence[Document], held_out_fraction: float, salt: str = "") -> set[int]:
    """Which documents are held out, groups of near-duplicates (see below) undivided.

    Groups are ordered by a hash of the salt and the smallest name in them, and held out in that order until the share
    of bytes is as near the fraction as it gets. A group that would make up more than a quarter of the held-out part
    (`encodings/cp*`) always trains, unless most groups are that large. So another version of the same corpus keeps
    nearly every document on its side, and with many documents the share of bytes is within an eighth of what was asked.

    Returns:
        Their indices: at least one, and not all. They do not depend on the order of the documents.

    Raises:
        SettingError: when the fraction is not between 0 and 1, or there are fewer than two groups.
    """
    _check(held_out_fraction)
    groups = near_duplicate_groups(documents)
    if len(groups) < 2:
        raise SettingError(
            "config.text.held_out_fraction",
            held_out_fraction,
            f"cannot be held out of {len(documents)} document(s) that form one group of near-duplicates; "
            "at least two different documents are needed",
        )
    sizes = np.array([sum(documents[i].size for i in g) for g in groups])
    target = held_out_fraction * sizes.sum()
    largest = max(LARGEST_SHARE_OF_HELD_OUT * target, float(np.median(sizes)))
    keys = [_position(salt, min(documents[i].name for i in group)) for group in groups]
    eligible = [g for g in sorted(range(len(groups)), key=keys.__getitem__) if sizes[g] <= largest]
    held, taken = set[int](), 0
    for g in eligible[: len(groups) - 1]:
        if taken and abs(taken + sizes[g] - target) > abs(taken - target):
            break
        held.update(groups[g])
        taken += int(sizes[g])
    return held


def is_held_out(document: Document, held_out_fraction: float, salt: str = "") -> bool:
    """Whether a document is held out, decided by its content alone: by the smallest hash of its n-grams, hashed again.

    Raises:
        SettingError: when the fraction is not between 0 and 1.
    """
    _check(held_out_fraction)
    if document.ids is None:
        tokens = np.array([zlib.crc32(t.encode("utf-8", "surrogatepass")) for t in TOKEN.findall(document.text)])
    else:
        tokens = document.ids
    smallest = _grams(tokens.astype(np.uint64), N).min()
    return int.from_bytes(_position(salt, str(smallest))[:8], "big") < held_out_fraction * 2**64


def _check(held_out_fraction: float) -> None:
    if not 0 < held_out_fraction < 1:
        raise SettingError("config.text.held_out_fraction", held_out_fraction, "must be between 0 and 1, exclusive")


def _position(salt: str, key: str) -> bytes:
    return hashlib.sha256(f"{salt}\0{key}".encode("utf-8", "surrogatepass")).digest()


def near_duplicate_groups(documents: Sequence[Document], n: int = N, threshold: float = 0.5) -> list[list[int]]:
    """Connected components of the documents whose sets of n-grams have a Jaccard similarity above the threshold.

    An n-gram is n consecutive tokens; a token is a run of word characters or one other character that is not white
    space, or a token id where documents come as these. A document shorter than n tokens has one gram, all of it. Every
    pair that can pass is compared exactly, up to collisions of 64-bit hashes (below 1e-6 for ten million grams).
    Memory: some 80 bytes a token of text.

    Returns:
        Groups of indices into `documents`, ascending, ordered by their first; every document is in exactly one.
    """
    equal: dict[bytes, list[int]] = {}
    grams = []
    for i, grams_of_i in enumerate(_gram_sets(documents, n)):
        same = equal.setdefault(hashlib.sha256(grams_of_i.tobytes()).digest(), [])
        if not same:
            grams.append(grams_of_i)
        same.append(i)
    parents = np.arange(len(grams))
    for left, right in _candidates(grams, threshold):
        for a, b in zip(left.tolist(), right.tolist(), strict=True):
            root_a, root_b = _root(parents, a), _root(parents, b)
            if root_a != root_b and jaccard(grams[a], grams[b]) > threshold:
                parents[max(root_a, root_b)] = min(root_a, root_b)
    groups: dict[int, list[int]] = {}
    for k, same in enumerate(equal.values()):
        groups.setdefault(_root(parents, k), []).extend(same)
    return sorted(sorted(group) for group in groups.values())


def jaccard(grams_a: np.ndarray, grams_b: np.ndarray) -> float:
    """Size of the intersection over size of the union of two sets, given as sorted arrays without repeats."""
    both = np.intersect1d(grams_a, grams_b, assume_unique=True).size
    return both / (grams_a.size + grams_b.size - both)


def _root(parents: np.ndarray, i: int) -> int:
    while parents[i] != i:
        parents[i] = parents[parents[i]]
        i = int(parents[i])
    return i


def _gram_sets(documents: Sequence[Document], n: int) -> Iterator[np.ndarray]:
    """For every document, the hashes (uint64) of its n-grams, sorted, without repeats."""
    numbers: dict[str, int] = {}
    fresh = count(1)
    for document in documents:
        if document.ids is None:
            tokens = TOKEN.findall(document.text)
            ids = [numbers.get(token) or numbers.setdefault(token, next(fresh)) for token in tokens]
            yield np.unique(_grams(np.array(ids, np.uint64), n))
        else:
            yield np.unique(_grams(document.ids.astype(np.uint64), n))


def _grams(tokens: np.ndarray, n: int) -> np.ndarray:
    """The hashes (uint64) of all n-grams, in order; of the whole where there are fewer than n tokens."""
    mixed = _mix(tokens)
    length = min(n, tokens.size)
    hashes = np.full(tokens.size - length + 1, length, np.uint64)
    for k in range(length):
        hashes = _mix(hashes + mixed[k : k + hashes.size])
    return hashes


def _mix(x: np.ndarray) -> np.ndarray:
    """The finaliser of splitmix64: a bijection of 64-bit integers whose output bits all depend on all input bits."""
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _candidates(sets: list[np.ndarray], threshold: float) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pairs of documents that may pass the threshold, none that could being left out.

    With all grams ordered by how many documents have them, two sets whose Jaccard similarity is above t share a gram
    among the first |A| - ceil(t |A|) + 1 of A and the like of B (prefix filter: Chaudhuri et al. 2006; Bayardo et al.
    2007). Rare grams come first, so that a licence header in every file costs nothing.
    """
    sizes = np.array([s.size for s in sets], np.int64)
    owner = np.repeat(np.arange(len(sets)), sizes)
    _, gram, frequency = np.unique(
        np.concatenate([*sets, np.empty(0, np.uint64)]), return_inverse=True, return_counts=True
    )
    order = np.lexsort((gram, frequency[gram], owner))
    gram, owner = gram[order], owner[order]
    rank = np.arange(gram.size) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    kept = (rank < (sizes - np.ceil(threshold * sizes) + 1)[owner]) & (frequency[gram] > 1)
    gram, owner = gram[kept], owner[kept]
    order = np.lexsort((owner, gram))
    yield from _pairs(gram[order], owner[order], sizes, threshold)


def _pairs(
    gram: np.ndarray, owner: np.ndarray, sizes: np.ndarray, threshold: float
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Distinct pairs of owners of the same gram, in portions of bounded memory. `gram` is sorted."""
    if not gram.size:
        return
    starts = np.flatnonzero(np.r_[True, gram[1:] != gram[:-1]])
    ends = np.r_[starts[1:], gram.size]
    # The entry at position p makes pairs with those after it that have the same gram.
    followers = np.repeat(ends, ends - starts) - np.arange(gram.size) - 1
    total = np.cumsum(followers)
    begin = 0
    while begin < gram.size:
        end = max(begin + 1, int(np.searchsorted(total, (total[begin - 1] if begin else 0) + PAIRS_AT_ONCE, "right")))
        number = followers[begin:end]
        first = np.repeat(np.arange(begin, end), number)
        step = np.arange(first.size) - np.repeat(np.cumsum(number) - number, number) + 1
        left, right = owner[first], owner[first + step]
        possible = np.minimum(sizes[left], sizes[right]) > threshold * np.maximum(sizes[left], sizes[right])
        pair = np.unique(left[possible] * np.int64(sizes.size) + right[possible])
        yield pair // sizes.size, pair % sizes.size
        begin = end
