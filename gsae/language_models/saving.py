"""Writes a language model as a Hugging Face directory, which `loading.py` and transformers read alike."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from flax import nnx
from safetensors.numpy import save
from tokenizers import Tokenizer

from gsae import artifacts
from gsae.language_models.families import family_of
from gsae.language_models.transformer import Transformer

DTYPES = {"float32": np.dtype("float32"), "bfloat16": np.dtype(ml_dtypes.bfloat16), "float16": np.dtype("float16")}


def save_language_model(
    path: Path, model: Transformer, tokenizer: Tokenizer, *, config: Mapping[str, Any], dtype: str, separator: str
) -> None:
    """Writes config.json, model.safetensors, tokenizer.json and tokenizer_config.json, each whole or not at all.

    Args:
        path: the directory; other files in it stay.
        model: the model.
        tokenizer: its tokenizer.
        config: the model in the words of its family: what config.json says beside dtype and special tokens.
        dtype: what the weights are rounded to, one of `DTYPES`.
        separator: the special token that stands between documents (BOS, EOS and UNK for Hugging Face).
    """
    family, settings = family_of(config), model.settings
    if family.settings(config) != settings:
        raise ValueError(f"the configuration means {family.settings(config)}, the model has {settings}")
    parameters = dict(nnx.to_flat_state(nnx.state(model, nnx.Param)))
    weights: dict[str, np.ndarray] = {}
    for tensor in family.tensors(settings):
        into = weights.setdefault(tensor.name, np.empty(tensor.file_shape, DTYPES[dtype]))
        tensor.layout.write(np.asarray(parameters[tensor.path][...]).astype(DTYPES[dtype]), into)
    separator_id = tokenizer.token_to_id(separator)
    described = {
        "architectures": [family.architecture],
        "dtype": dtype,
        "bos_token_id": separator_id,
        "eos_token_id": separator_id,
        **config,
    }
    tokenizer_config: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": separator,
        "eos_token": separator,
        "unk_token": separator,
        "model_max_length": settings.context_length,
        "clean_up_tokenization_spaces": False,
    }
    artifacts.write_file(path / "model.safetensors", save(weights, metadata={"format": "pt"}))
    artifacts.write_file(path / "tokenizer.json", tokenizer.to_str(pretty=False) + "\n")
    artifacts.write_file(path / "tokenizer_config.json", json.dumps(tokenizer_config, indent=2) + "\n")
    artifacts.write_file(path / "config.json", json.dumps(described, indent=2) + "\n")
