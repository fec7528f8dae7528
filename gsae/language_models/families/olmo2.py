"""OLMo 2 (OLMo team 2025): norms after attention and MLP instead of before, and of all queries and keys together."""

from collections.abc import Mapping
from typing import Any

from gsae.language_models.families.family import Family
from gsae.language_models.families.llama import (
    BUFFERS,
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

POST_NORMS = {"attention_post_norm": "post_attention_layernorm", "mlp_post_norm": "post_feedforward_layernorm"}


def _settings(config: Mapping[str, Any]) -> Settings:
    reader = Reader(config)
    heads, norm = read_heads(reader), read_rms_norm(reader, 1e-5)
    attention = AttentionSettings(
        **heads,
        **read_bias(reader),
        rotary=read_rotary(reader, heads["head_width"], reader.count("max_position_embeddings")),
        query_key_norm=norm,
        norm_over_heads=True,
    )
    settings = Settings(
        **read_sizes(reader),
        attention=(attention,) * reader.count("num_hidden_layers"),
        mlp=read_gated_mlp(reader),
        norm=norm,
        pre_norm=False,
        post_norm=True,
    )
    reader.finish()
    return settings


OLMO2 = Family("olmo2", "Olmo2ForCausalLM", _settings, sources(POST_NORMS | QUERY_KEY_NORMS), BUFFERS, prefix="model.")
