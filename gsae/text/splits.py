"""Training and held-out documents: near-duplicates are found by content and stay together on one side."""

import hashlib
import re
from collections.abc import Iterator, Sequence
from itertools import count

import numpy as np

from gsae.errors import SettingError
from gsae.text.sources import Document

TOKEN = re.compile(r"\w+|[^\w\s]")
PAIRS_AT_ONCE = 1 << 22
# A group with more than this share of the held-out bytes would be no sample of the text but most of it.
LARGEST_SHARE_OF_HELD_OUT = 0.25


def split_documents(
    documents: Sequence[Document], held_out_fraction: float, salt: str = ""
) -> tuple[list[Document], list[Document]]:
    """Splits documents into training and held-out ones, groups of near-duplicates (see below) undivided.

    Groups are ordered by a hash of the salt and the smallest name in them, and held out in that order until the share
    of bytes is as near the fraction as it gets. A group that would make up more than a quarter of the held-out part
    (`encodings/cp*`) always trains, unless most groups are that large. So another version of the same corpus keeps
    nearly every document on its side, and with many documents the share of bytes is within an eighth of what was asked.

    Returns:
        (training, held out), each in the order of `documents`; neither is empty.

    Raises:
        SettingError: when the fraction is not between 0 and 1, or there are fewer than two groups.
    """
    if not 0 < held_out_fraction < 1:
        raise SettingError("config.text.held_out_fraction", held_out_fraction, "must be between 0 and 1, exclusive")
    groups = near_duplicate_groups(documents)
    if len(groups) < 2:
        raise SettingError(
            "config.text.held_out_fraction",
            held_out_fraction,
            f"cannot be held out of {len(documents)} document(s) that form one group of near-duplicates; "
            "at least two different documents are needed",
        )
    sizes = np.array([sum(len(documents[i].text.encode("utf-8", "surrogatepass")) for i in g) for g in groups])
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
    train = [document for i, document in enumerate(documents) if i not in held]
    return train, [document for i, document in enumerate(documents) if i in held]


def _position(salt: str, key: str) -> bytes:
    return hashlib.sha256(f"{salt}\0{key}".encode("utf-8", "surrogatepass")).digest()


def near_duplicate_groups(documents: Sequence[Document], n: int = 13, threshold: float = 0.5) -> list[list[int]]:
    """Connected components of the documents whose sets of n-grams have a Jaccard similarity above the threshold.

    An n-gram is n consecutive tokens; a token is a run of word characters or one other character that is not white
    space. A document shorter than n tokens has one gram, all of it. Every pair that can pass is compared exactly, up to
    collisions of 64-bit hashes (below 1e-6 for ten million grams). Memory: some 80 bytes a token of text.

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
        tokens = TOKEN.findall(document.text)
        ids = [numbers.get(token) or numbers.setdefault(token, next(fresh)) for token in tokens]
        mixed = _mix(np.array(ids, np.uint64))
        length = min(n, len(ids))
        hashes = np.full(len(ids) - length + 1, length, np.uint64)
        for k in range(length):
            hashes = _mix(hashes + mixed[k : k + hashes.size])
        yield np.unique(hashes)


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
