"""Experiments on published models, from text to frontier; a tiny random one of its family stands in for it.

Those on GELU-1L and Pythia differ from the paper's in numbers only, which test_language_models.py checks; the paper's
run in test_paper.py.
"""

import json
import runpy
import shutil

import numpy as np
import pytest
from safetensors.numpy import save_file
from tiny_run import SETTINGS, documents

from benchmarks.live_or_cached import LARGE, ROOT
from gsae import config as schema
from gsae.language_models import hub
from gsae.language_models.families import family_of
from gsae.pipeline import run
from gsae.reports.tables import read_results_csv

pytestmark = pytest.mark.slow

FILES = sorted({name.partition(":")[0] for name in LARGE})
OF_THE_PAPER = ("gelu_1l", "pythia")
VOCABULARY = 4096  # of the bundled model's tokenizer, which stands in for theirs
LLAMA = {
    "vocab_size": VOCABULARY, "hidden_size": 12, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 6,
    "intermediate_size": 20, "max_position_embeddings": 64, "bos_token_id": 0, "eos_token_id": 0,
}  # fmt: skip
TINY = {  # config.json of the families, but for the number of layers
    "gelu_1l": {
        "d_model": 12, "d_head": 6, "n_heads": 2, "d_mlp": 20, "n_ctx": 64, "d_vocab": VOCABULARY, "n_layers": 1,
        "act_fn": "gelu", "normalization": "LN", "tokenizer_name": "NeelNanda/gpt-neox-tokenizer-digits",
        "bos_token_id": 0,
    },
    "gpt2": {
        "model_type": "gpt2", "vocab_size": VOCABULARY, "n_embd": 12, "n_head": 2, "n_positions": 64,
        "bos_token_id": 0, "eos_token_id": 0,
    },
    "pythia": {
        "model_type": "gpt_neox", "vocab_size": VOCABULARY, "hidden_size": 16, "num_attention_heads": 2,
        "intermediate_size": 20, "max_position_embeddings": 64, "bos_token_id": 0, "eos_token_id": 0,
        "rotary_pct": 0.25,
    },
    "llama_3_2_1b": LLAMA | {"model_type": "llama", "tie_word_embeddings": True, "rope_theta": 5e5},
    "qwen_3": LLAMA | {"model_type": "qwen3"},
    "gemma_2_2b": LLAMA | {"model_type": "gemma2", "sliding_window": 16, "query_pre_attn_scalar": 6},
}  # fmt: skip
LAYERS = {"gpt2": "n_layer", "gelu_1l": None}


def random_model(path, name, layers):
    """A directory with a random model that has so many layers."""
    key = LAYERS.get(name, "num_hidden_layers")
    config = TINY[name] | ({key: layers} if key else {})
    family, draws = family_of(config), np.random.default_rng(0)
    shapes = {tensor.name: tensor.file_shape for tensor in family.tensors(family.settings(config))}
    path.mkdir()
    save_file(
        {tensor: 0.3 * draws.standard_normal(shape, np.float32) for tensor, shape in shapes.items()},
        path / "model.safetensors",
    )
    (path / "config.json").write_text(json.dumps(config))
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(hub.find("bundled").directory / file, path / file)
    return path


@pytest.mark.parametrize(
    ("name", "source"),
    [*((name, "store") for name in FILES if name not in OF_THE_PAPER), ("gpt2", "live")],
)
def test_the_experiment_runs(name, source, tmp_path):
    config = runpy.run_path(str(ROOT / "experiments" / "language_models" / f"{name}.py"))["get_config"]()
    layer = int(config.sweep.gated.sites[0].rpartition(".")[2])
    small = SETTINGS | {
        "language_model.name": str(random_model(tmp_path / "model", name, layer + 2)),
        "text.paths": (str(documents(tmp_path / "text")),),
        "activations.source": source,
        "training.steps": 10,
    }
    config.update_from_flattened_dict(small)
    run(schema.parse(config), tmp_path / "run")
    rows = read_results_csv(tmp_path / "run" / "results.csv")
    assert len(rows) == 4 and all(row["status"] == "ok" and np.isfinite(row["ce_spliced"]) for row in rows)
    assert {f"{row['site']}.{row['layer']}" for row in rows} == set(config.sweep.gated.sites)
    assert (tmp_path / "run" / "activations").exists() == (source == "store")
