"""The language model that ships with the package: small, loadable by the ordinary loader, and trained."""

import math
from pathlib import Path

import numpy as np
import optax
import pytest

import gsae
from gsae.language_models.loading import load_language_model

SNIPPET = '''
    def __init__(self, name, parent=None):
        """Initialize the object with the given name."""
        if not isinstance(name, str):
            raise TypeError("name must be a string, not %s" % type(name).__name__)
        self.name = name
        self.parent = parent

    def __repr__(self):
        return "<%s %r at 0x%x>" % (self.__class__.__name__, self.name, id(self))
'''


@pytest.fixture(scope="module")
def bundled():
    return load_language_model("bundled")


def test_it_is_small_and_a_hugging_face_directory():
    directory = Path(gsae.__file__).parent / "language_models" / "bundled"
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= {path.name for path in directory.iterdir()}
    assert sum(path.stat().st_size for path in directory.iterdir()) <= 12e6


def test_it_predicts_code_that_it_has_not_seen(bundled):
    ids = np.array([[bundled.separator_id, *bundled.tokenizer.encode(SNIPPET)]])
    loss = optax.softmax_cross_entropy_with_integer_labels(bundled.model(ids)[:, :-1], ids[:, 1:]).mean()
    assert loss < 0.5 * math.log(4096)
    shuffled = np.random.default_rng(0).permutation(ids, axis=1)
    worse = optax.softmax_cross_entropy_with_integer_labels(bundled.model(shuffled)[:, :-1], shuffled[:, 1:]).mean()
    assert worse > loss + 1


def test_its_tokenizer_gives_text_back_and_knows_the_separator(bundled):
    assert bundled.tokenizer.decode(bundled.tokenizer.encode(SNIPPET)) == SNIPPET
    assert bundled.special_ids == (0,)
    assert bundled.tokenizer.decode([0]) == "<|endoftext|>"
    assert len(bundled.tokenizer.encode(SNIPPET)) < len(SNIPPET) / 2.5
