"""Mistral (Jiang et al. 2023): Llama with a sliding window."""

from collections.abc import Mapping
from typing import Any

from gsae.language_models.families.family import Family
from gsae.language_models.families.llama import (
    BUFFERS,
    PRE_NORMS,
    read_gated_mlp,
    read_heads,
    read_rms_norm,
    read_sizes,
    sources,
)
from gsae.language_models.families.positions import read_rotary
from gsae.language_models.families.reader import Reader
from gsae.language_models.settings import AttentionSettings, Settings


def _settings(config: Mapping[str, Any]) -> Settings:
    reader = Reader(config)
    heads = read_heads(reader)
    attention = AttentionSettings(
        **heads,
        rotary=read_rotary(reader, heads["head_width"], reader.count("max_position_embeddings")),
        window=reader.count_or_none("sliding_window", 4096),
        qkv_bias=False,
        out_bias=False,
    )
    settings = Settings(
        **read_sizes(reader),
        attention=(attention,) * reader.count("num_hidden_layers"),
        mlp=read_gated_mlp(reader),
        norm=read_rms_norm(reader),
    )
    reader.finish()
    return settings


MISTRAL = Family("mistral", "MistralForCausalLM", _settings, sources(PRE_NORMS), BUFFERS, prefix="model.")
