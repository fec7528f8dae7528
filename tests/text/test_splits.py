import random
import re
import time
from collections import Counter, defaultdict
from itertools import combinations

import numpy as np
import pytest

from gsae.errors import SettingError
from gsae.text import splits
from gsae.text.documents import Document
from gsae.text.sources import python_standard_library
from gsae.text.splits import is_held_out, near_duplicate_groups, split_documents


def grams(text, n):
    """The definition, with tuples instead of hashes."""
    tokens = re.findall(r"\w+|[^\w\s]", text)
    return {tuple(tokens[i : i + n]) for i in range(max(1, len(tokens) - n + 1))}


def groups_by_definition(documents, n, threshold):
    sets = [grams(document.text, n) for document in documents]
    label = list(range(len(documents)))
    for a, b in combinations(range(len(documents)), 2):
        if len(sets[a] & sets[b]) > threshold * len(sets[a] | sets[b]):
            label = [label[a] if other == label[b] else other for other in label]
    groups = defaultdict(list)
    for i, g in enumerate(label):
        groups[g].append(i)
    return sorted(groups.values())


def size(documents):
    return sum(len(document.text.encode()) for document in documents)


@pytest.mark.parametrize("seed", range(30))
def test_groups_are_those_of_the_definition(seed, monkeypatch):
    monkeypatch.setattr(splits, "PAIRS_AT_ONCE", 7)  # so that small cases meet the borders between portions
    rng = random.Random(seed)
    n, threshold = rng.choice([(1, 0.5), (2, 0.5), (3, 0.3), (3, 0.8), (13, 0.5)])
    header = " ".join(rng.choices("abcdefgh", k=rng.randrange(30)))
    originals = [" ".join(rng.choices("abcdefgh(,)", k=rng.randrange(60))) for _ in range(6)]
    texts = []
    for _ in range(25):
        words = rng.choice(originals).split()
        for _ in range(rng.randrange(8)):
            if words:
                words[rng.randrange(len(words))] = rng.choice("xyz")
        texts.append(header + " " + " ".join(words))
    documents = [Document(str(i), text) for i, text in enumerate(texts)]
    found = near_duplicate_groups(documents, n, threshold)
    assert found == groups_by_definition(documents, n, threshold)
    assert sorted(i for group in found for i in group) == list(range(25))


def test_similarity_at_the_threshold_is_not_above_it():
    # Of 1-grams: 2 shared, 4 together.
    documents = [Document("a", "x y z"), Document("b", "x y w")]
    assert near_duplicate_groups(documents, n=1, threshold=0.5) == [[0], [1]]
    assert near_duplicate_groups(documents, n=1, threshold=0.499) == [[0, 1]]


def test_documents_shorter_than_a_gram_are_compared_whole():
    texts = ["a b", "a  b", "a b c", "", " ", "a b " * 20]
    documents = [Document(str(i), text) for i, text in enumerate(texts)]
    assert near_duplicate_groups(documents) == [[0, 1], [2], [3, 4], [5]]


def test_many_equal_documents_are_quick():
    text = " ".join(str(i) for i in range(300))
    documents = [Document(str(i), text) for i in range(3000)] + [Document("other", text[:400])]
    start = time.monotonic()
    assert [len(group) for group in near_duplicate_groups(documents)] == [3000, 1]
    assert time.monotonic() - start < 10  # pair by pair it would take many minutes


@pytest.fixture(scope="module")
def library():
    return python_standard_library()


@pytest.fixture(scope="module")
def library_split(library):
    return split_documents(library, 0.1)


def test_standard_library_no_pair_across_the_split_is_similar(library, library_split):
    """By content, with sets of tuples: nothing of the implementation is used."""
    train, held_out = library_split
    assert sorted(document.name for document in train + held_out) == [document.name for document in library]
    sizes, where = [], defaultdict(list)
    for i, document in enumerate(held_out):
        held = grams(document.text, 13)
        sizes.append(len(held))
        for gram in held:
            where[gram].append(i)
    worst = 0.0
    for document in train:
        of_document = grams(document.text, 13)
        shared = Counter(i for gram in of_document for i in where.get(gram, ()))
        for i, both in shared.items():
            worst = max(worst, both / (len(of_document) + sizes[i] - both))
    assert worst <= 0.5
    assert worst > 0.1  # the measure does find what is alike (charmap codecs, say)


def test_standard_library_share_and_groups(library, library_split):
    _, held_out = library_split
    assert 0.085 < size(held_out) / size(library) < 0.115
    assert len(held_out) > 30
    groups = [{library[i].name for i in group} for group in near_duplicate_groups(library)]
    code_pages = next(group for group in groups if "encodings/cp1252.py" in group)
    assert len(code_pages) > 10 and {"encodings/cp1250.py", "encodings/cp1257.py"} <= code_pages


def test_another_version_of_the_corpus_keeps_its_sides(library, library_split, monkeypatch):
    rng = random.Random(0)
    other = [Document(d.name, d.text + "\nprint(1)\n" * rng.randrange(3)) for d in library if rng.random() > 0.1] + [
        Document(f"new{i}.py", f"def f{i}(): pass\n" * 300) for i in range(40)
    ]
    held_before = {document.name for document in library_split[1]}
    train, held_out = split_documents(other, 0.1)
    names = {document.name for document in library}
    moved = [d.name for d in train if d.name in held_before]
    moved += [d.name for d in held_out if d.name in names and d.name not in held_before]
    assert len(moved) < 0.08 * len(other)  # chance would move 18 %
    assert 0.08 < size(held_out) / size(other) < 0.12


def test_split_keeps_order_and_depends_on_names_and_salt_only(library):
    documents = [Document(f"{i}", f"{i} " * 50) for i in range(400)]
    train, held_out = split_documents(documents, 0.25)
    assert [d for d in documents if d in held_out] == held_out and [d for d in documents if d in train] == train
    again = split_documents(documents[::-1], 0.25)
    assert set(again[1]) == set(held_out)
    assert set(split_documents(documents, 0.25, salt="other")[1]) != set(held_out)


@pytest.mark.parametrize(("number", "expected"), [(2, 1), (3, 1), (10, 1), (20, 2), (100, 10)])
def test_few_documents_leave_something_on_both_sides(number, expected):
    documents = [Document(f"{i:03}", f"{i:03} " * 50) for i in range(number)]
    train, held_out = split_documents(documents, 0.1)
    assert len(held_out) == expected and len(train) == number - expected


@pytest.mark.parametrize("salt", [str(i) for i in range(30)])
def test_large_groups_train_so_that_the_share_of_bytes_is_near(salt):
    rng = random.Random(0)
    documents = [Document(f"{i}", f"{i} " * rng.randrange(20, 100)) for i in range(400)]
    pages = [f"page {i} " + "one and the same text " * 30 for i in range(20)]
    documents += [Document(f"pages/{i}", page) for i, page in enumerate(pages)]
    documents += [Document("book", " ".join(map(str, range(5000))))]
    train, held_out = split_documents(documents, 0.1, salt)
    assert 0.0875 < size(held_out) / size(documents) < 0.1125
    assert {"book", "pages/0", "pages/19"} <= {document.name for document in train}


def test_large_fraction_leaves_training_documents():
    documents = [Document(f"{i}", f"{i} " * 50) for i in range(3)]
    for fraction in (0.5, 0.9, 0.999):
        train, held_out = split_documents(documents, fraction)
        assert train and held_out


def test_wrong_settings():
    different = [Document("a", "x"), Document("b", "y")]
    for fraction in (0.0, 1.0, -0.1, 2.0):
        with pytest.raises(SettingError, match=r"config\.text\.held_out_fraction = .* between 0 and 1"):
            split_documents(different, fraction)
    for documents in ([], different[:1], [Document("a", "x"), Document("b", "x")]):
        with pytest.raises(SettingError, match=r"config\.text\.held_out_fraction = .* two different documents"):
            split_documents(documents, 0.1)


def variants(rng, number, words, changed):
    """Pairs of documents that differ in some of their words."""
    for i in range(number):
        text = [f"{i}_{rng.randrange(10**6)}" for _ in range(words)]
        other = list(text)
        for position in rng.sample(range(words), changed):
            other[position] = "other"
        yield Document(f"a{i}", " ".join(text)), Document(f"b{i}", " ".join(other))


def test_document_by_document_the_share_is_as_asked_and_names_and_order_do_not_matter():
    rng = random.Random(0)
    texts = [" ".join(str(rng.randrange(1000)) for _ in range(rng.randrange(1, 60))) for _ in range(4000)]
    held = [is_held_out(Document(str(i), text), 0.1) for i, text in enumerate(texts)]
    assert 0.08 < sum(held) / len(held) < 0.12
    assert held[:300] == [is_held_out(Document("other", f"  {text}\n"), 0.1) for text in texts[:300]]
    assert held[:300] != [is_held_out(Document("", text), 0.1, salt="x") for text in texts[:300]]
    as_ids = [Document("", "", np.array([int(word) for word in text.split()])) for text in texts]
    assert 0.08 < np.mean([is_held_out(document, 0.1) for document in as_ids]) < 0.12
    with pytest.raises(SettingError, match=r"config\.text\.held_out_fraction = 1\.5"):
        is_held_out(as_ids[0], 1.5)


def test_document_by_document_near_duplicates_part_as_seldom_as_promised():
    """2 p (1 - p) (1 - J) at most; independent documents part with 2 p (1 - p) = 0.5."""
    pairs = list(variants(random.Random(0), 1500, words=120, changed=1))
    apart = np.mean([is_held_out(a, 0.5) != is_held_out(b, 0.5) for a, b in pairs])
    similarity = np.mean([len(g := grams(a.text, 13) & grams(b.text, 13)) / (2 * 108 - len(g)) for a, b in pairs])
    expected = 0.5 * (1 - similarity)
    assert 0.7 < similarity < 0.85
    assert abs(apart - expected) < 4 * (expected / 1500) ** 0.5
