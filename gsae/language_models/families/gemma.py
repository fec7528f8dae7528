"""Gemma 1, 2 and 3, text (Gemma team 2024, 2025): embeddings are scaled, factors of norms are stored less one."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from gsae.language_models.families.family import Family
from gsae.language_models.families.llama import BUFFERS, PRE_NORMS, QUERY_KEY_NORMS, read_bias, read_heads, sources
from gsae.language_models.families.positions import read_rotary, read_rotary_by_kind
from gsae.language_models.families.reader import ACTIVATIONS, Reader
from gsae.language_models.settings import AttentionSettings, MLPSettings, NormSettings, Settings

SANDWICH_NORMS = {
    "attention_norm": "input_layernorm",
    "attention_post_norm": "post_attention_layernorm",
    "mlp_norm": "pre_feedforward_layernorm",
    "mlp_post_norm": "post_feedforward_layernorm",
}
# Shipped configurations of Gemma 3 leave out what transformers has as defaults.
DEFAULTS_3 = {
    "vocab_size": 262_208,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "max_position_embeddings": 131_072,
    "query_pre_attn_scalar": 256,
    "sliding_window": 4096,
}
TANH = {"gelu_pytorch_tanh": "gelu_tanh", None: "gelu_tanh"}


def _read(reader: Reader, activation: str) -> dict[str, Any]:
    """What all three generations share."""
    reader.choice("use_bidirectional_attention", False, {False: False, None: False})
    reader.ignore("attention_dropout")
    width = reader.count("hidden_size")
    return {
        "width": width,
        "vocabulary": reader.count("vocab_size"),
        "context_length": reader.count("max_position_embeddings"),
        "tied_embeddings": reader.flag("tie_word_embeddings", True),
        "embedding_scale": width**0.5,
        "mlp": MLPSettings(reader.count("intermediate_size"), activation, gated=True, bias=False),
        "norm": _read_norm(reader),
    }


def _read_norm(reader: Reader) -> NormSettings:
    return NormSettings("rms", float(reader.number("rms_norm_eps", 1e-6)), bias=False, offset=1.0)


def _read_scaled_heads(reader: Reader) -> dict[str, Any]:
    """Heads of Gemma 2 and 3, whose scale is a setting of its own, and their soft cap."""
    heads = read_heads(reader, head_width=256) | {"scale": float(reader.number("query_pre_attn_scalar", 256)) ** -0.5}
    return heads | read_bias(reader)


def _gemma_settings(config: Mapping[str, Any]) -> Settings:
    reader = Reader(config)
    heads = read_heads(reader, head_width=256)
    context_length = reader.count("max_position_embeddings")
    rotary = read_rotary(reader, heads["head_width"], context_length)
    attention = AttentionSettings(**heads, **read_bias(reader), rotary=rotary)
    # The first files say `gelu` and mean its approximation, as transformers does.
    older = reader.choice("hidden_act", "gelu_pytorch_tanh", ACTIVATIONS | {"gelu": "gelu_tanh"})
    newer = reader.choice("hidden_activation", None, ACTIVATIONS | {None: older, "gelu": "gelu_tanh"})
    layers = (attention,) * reader.count("num_hidden_layers")
    settings = Settings(**_read(reader, newer), attention=layers)
    reader.finish()
    return settings


def _gemma2_settings(config: Mapping[str, Any]) -> Settings:
    reader = Reader(config)
    reader.ignore("hidden_act")  # `hidden_activation` is what counts
    heads = _read_scaled_heads(reader)
    rotary = read_rotary(reader, heads["head_width"], reader.count("max_position_embeddings"))
    cap = reader.number_or_none("attn_logit_softcapping", 50.0)
    attention = AttentionSettings(**heads, rotary=rotary, soft_cap=cap)
    kinds = [
        "full_attention" if layer % 2 else "sliding_attention" for layer in range(reader.count("num_hidden_layers"))
    ]
    window = reader.count_or_none("sliding_window", 4096)
    windows = reader.names("layer_types", kinds, {"full_attention": None, "sliding_attention": window})
    settings = Settings(
        **_read(reader, reader.choice("hidden_activation", "gelu_pytorch_tanh", ACTIVATIONS | TANH)),
        attention=tuple(dataclasses.replace(attention, window=window) for window in windows),
        post_norm=True,
        final_soft_cap=reader.number_or_none("final_logit_softcapping", 30.0),
    )
    reader.finish()
    return settings


def _gemma3_settings(config: Mapping[str, Any]) -> Settings:
    reader = Reader(DEFAULTS_3 | dict(config))
    reader.ignore("hidden_act")
    heads = _read_scaled_heads(reader)
    by_kind = read_rotary_by_kind(
        reader,
        heads["head_width"],
        reader.count("max_position_embeddings"),
        {"full_attention": ("rope_theta", 1e6), "sliding_attention": ("rope_local_base_freq", 1e4)},
    )
    reader.choice("attn_logit_softcapping", None, {None: None})  # transformers does not apply it
    pattern = reader.count("sliding_window_pattern", 6)
    reader.ignore("_sliding_window_pattern")
    layers = range(1, 1 + reader.count("num_hidden_layers"))
    kinds = ["sliding_attention" if layer % pattern else "full_attention" for layer in layers]
    window = reader.count_or_none("sliding_window")
    attention = {
        "full_attention": AttentionSettings(
            **heads, rotary=by_kind["full_attention"], query_key_norm=_read_norm(reader)
        ),
        "sliding_attention": AttentionSettings(
            **heads, rotary=by_kind["sliding_attention"], query_key_norm=_read_norm(reader), window=window
        ),
    }
    settings = Settings(
        **_read(reader, reader.choice("hidden_activation", "gelu_pytorch_tanh", ACTIVATIONS | TANH)),
        attention=tuple(reader.names("layer_types", kinds, attention)),
        post_norm=True,
        final_soft_cap=reader.number_or_none("final_logit_softcapping", None),
    )
    reader.finish()
    return settings


def _gemma3_text_settings(config: Mapping[str, Any]) -> Settings:
    """Of a model that also sees images: only its text part is read, and only text goes into it."""
    text = config.get("text_config")
    tied = {"tie_word_embeddings": config["tie_word_embeddings"]} if "tie_word_embeddings" in config else {}
    return _gemma3_settings(tied | dict(text if isinstance(text, Mapping) else {}))


GEMMA = Family("gemma", "GemmaForCausalLM", _gemma_settings, sources(PRE_NORMS), BUFFERS, prefix="model.")
GEMMA2 = Family("gemma2", "Gemma2ForCausalLM", _gemma2_settings, sources(SANDWICH_NORMS), BUFFERS, prefix="model.")
GEMMA3_TEXT = Family(
    "gemma3_text", "Gemma3ForCausalLM", _gemma3_settings, sources(SANDWICH_NORMS | QUERY_KEY_NORMS), BUFFERS, "model."
)
GEMMA3 = Family(
    "gemma3",
    "Gemma3ForConditionalGeneration",
    _gemma3_text_settings,
    sources(SANDWICH_NORMS | QUERY_KEY_NORMS),
    rf"{BUFFERS}|(model\.)?(vision_tower|multi_modal_projector)\..*",
    renamed=((r"^(model\.language_model|language_model\.model)\.", "model."), (r"^language_model\.", "")),
)
