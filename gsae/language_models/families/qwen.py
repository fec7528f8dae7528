"""Qwen 2 and 2.5 (Yang et al. 2024): Llama with biases. Qwen 3 (Yang et al. 2025): with norms of queries and keys."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from gsae.language_models.families.family import Family
from gsae.language_models.families.llama import (
    BUFFERS,
    PRE_NORMS,
    QUERY_KEY_NORMS,
    read_bias,
    read_gated_mlp,
    read_heads,
    read_rms_norm,
    read_sizes,
    sources,
)
from gsae.language_models.families.positions import read_rotary
from gsae.language_models.families.reader import Reader
from gsae.language_models.settings import AttentionSettings, Settings


def _layers(reader: Reader, attention: AttentionSettings) -> tuple[AttentionSettings, ...]:
    """The layers' attention: where windows are in use, the first `max_window_layers` see everything."""
    layers = reader.count("num_hidden_layers")
    window = reader.count_or_none("sliding_window", 4096)
    window = window if reader.flag("use_sliding_window", False) else None
    everything = layers if window is None else int(reader.number("max_window_layers", 28))
    reader.ignore("max_window_layers")
    kinds = ["full_attention" if layer < everything else "sliding_attention" for layer in range(layers)]
    windows = reader.names("layer_types", kinds, {"full_attention": None, "sliding_attention": window})
    return tuple(dataclasses.replace(attention, window=window) for window in windows)


def _qwen2_settings(config: Mapping[str, Any]) -> Settings:
    reader = Reader(config)
    reader.choice("use_mrope", False, {False: False})
    heads = read_heads(reader)
    attention = AttentionSettings(
        **heads,
        rotary=read_rotary(reader, heads["head_width"], reader.count("max_position_embeddings")),
        qkv_bias=True,
        out_bias=False,
    )
    settings = Settings(
        **read_sizes(reader),
        attention=_layers(reader, attention),
        mlp=read_gated_mlp(reader),
        norm=read_rms_norm(reader),
    )
    reader.finish()
    return settings


def _qwen3_settings(config: Mapping[str, Any]) -> Settings:
    reader = Reader(config)
    heads, norm = read_heads(reader, head_width=128), read_rms_norm(reader)
    attention = AttentionSettings(
        **heads,
        **read_bias(reader),
        rotary=read_rotary(reader, heads["head_width"], reader.count("max_position_embeddings")),
        query_key_norm=norm,
    )
    settings = Settings(
        **read_sizes(reader),
        attention=_layers(reader, attention),
        mlp=read_gated_mlp(reader),
        norm=norm,
    )
    reader.finish()
    return settings


QWEN2 = Family("qwen2", "Qwen2ForCausalLM", _qwen2_settings, sources(PRE_NORMS), BUFFERS, prefix="model.")
QWEN3 = Family(
    "qwen3", "Qwen3ForCausalLM", _qwen3_settings, sources(PRE_NORMS | QUERY_KEY_NORMS), BUFFERS, prefix="model."
)
