"""A random tiny language model, token stores of random documents, and the settings of a small harvest."""

import zlib
from types import SimpleNamespace

import numpy as np
from flax import nnx

from gsae.language_models.families import family_of
from gsae.language_models.sites import Site
from gsae.language_models.transformer import Transformer
from gsae.text.documents import Document
from gsae.text.tokens import TokenStore, write_token_store

VOCABULARY, CONTEXT = 64, 16
SITES = (Site(0, "mlp_out"), Site(1, "resid_post"), Site(1, "mlp_act"))
HARVEST = {"superblock_rows": 256, "dtype": "bfloat16", "seed": 3, "batch_size": 8, "progress": False}


def random_tokens(texts):
    """Each text's ids, decided by its bytes; its length is the text's."""
    return [np.random.default_rng(zlib.crc32(t.encode())).integers(1, VOCABULARY, len(t)).tolist() for t in texts]


def make_token_store(path, documents: int, seed: int = 0) -> TokenStore:
    lengths = np.random.default_rng(seed).integers(10, 150, documents)
    return write_token_store(
        path,
        [Document(f"document {i}", chr(97 + i % 26) * int(n) + str(i)) for i, n in enumerate(lengths)],
        random_tokens,
        context_length=CONTEXT,
        separator_id=0,
        special_ids=[0, 5],
        vocabulary=VOCABULARY,
        progress=False,
    )


def make_language_model(seed: int = 0):
    config = {
        "model_type": "gpt_neox", "num_hidden_layers": 3, "hidden_size": 16, "num_attention_heads": 2,
        "intermediate_size": 24, "vocab_size": VOCABULARY, "max_position_embeddings": CONTEXT, "rotary_pct": 0.5,
        "use_parallel_residual": True,
    }  # fmt: skip
    model = Transformer(family_of(config).settings(config), nnx.Rngs(seed))
    model.embedding[...] = model.embedding[...] * 50  # so that activations differ by much more than bfloat16 rounds
    return SimpleNamespace(model=model, fingerprint=f"random weights {seed}")
