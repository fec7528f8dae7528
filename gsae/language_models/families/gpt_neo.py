"""GPT-Neo (Black et al. 2021), and TinyStories (Eldan and Li 2023): unscaled attention, local in every other layer."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from gsae.language_models.families.family import Family
from gsae.language_models.families.gpt2 import IGNORED, read_plain_heads
from gsae.language_models.families.reader import ACTIVATIONS, Reader, refused
from gsae.language_models.families.tensors import Source, linear, norm
from gsae.language_models.settings import AttentionSettings, MLPSettings, NormSettings, Settings


def _settings(config: Mapping[str, Any]) -> Settings:
    reader = Reader(config)
    reader.ignore(*IGNORED, "attention_dropout", "embed_dropout", "resid_dropout", "attention_layers")
    width = reader.count("hidden_size")
    attention = AttentionSettings(
        **read_plain_heads(width, reader.count("num_heads"), "num_heads") | {"scale": 1.0}, qkv_bias=False
    )
    windows = {"global": None, "local": reader.count("window_size", 256)}
    kinds = _kinds(reader, reader.count("num_layers"))
    settings = Settings(
        width=width,
        vocabulary=reader.count("vocab_size"),
        context_length=reader.count("max_position_embeddings"),
        attention=tuple(dataclasses.replace(attention, window=windows[kind]) for kind in kinds),
        mlp=MLPSettings(
            reader.count("intermediate_size", 4 * width), reader.choice("activation_function", "gelu_new", ACTIVATIONS)
        ),
        norm=NormSettings("layer", float(reader.number("layer_norm_epsilon", 1e-5))),
        learned_positions=True,
        tied_embeddings=reader.flag("tie_word_embeddings", True),
    )
    reader.finish()
    return settings


def _kinds(reader: Reader, layers: int) -> list[str]:
    """`global` or `local` for each layer, from [[[kind, kind ...], how often], ...]."""
    reader.ignore("attention_types")
    types = reader.config.get("attention_types") or [[["global", "local"], 12]]
    try:
        kinds = [kind for pattern, times in types for _ in range(times) for kind in pattern]
    except (TypeError, ValueError):
        kinds = []
    if len(kinds) != layers or not set(kinds) <= {"global", "local"}:
        raise refused("attention_types", types, f"must give global or local for each of num_layers = {layers}")
    return kinds


LAYER = "transformer.h.*"
GPT_NEO = Family(
    "gpt_neo",
    "GPTNeoForCausalLM",
    _settings,
    sources={
        "embedding": Source("transformer.wte.weight"),
        "positions": Source("transformer.wpe.weight"),
        **norm("layers.*.attention_norm", f"{LAYER}.ln_1"),
        **linear("layers.*.attention.q", f"{LAYER}.attn.attention.q_proj"),
        **linear("layers.*.attention.k", f"{LAYER}.attn.attention.k_proj"),
        **linear("layers.*.attention.v", f"{LAYER}.attn.attention.v_proj"),
        **linear("layers.*.attention.out", f"{LAYER}.attn.attention.out_proj"),
        **norm("layers.*.mlp_norm", f"{LAYER}.ln_2"),
        **linear("layers.*.mlp.up", f"{LAYER}.mlp.c_fc"),
        **linear("layers.*.mlp.down", f"{LAYER}.mlp.c_proj"),
        **norm("final_norm", "transformer.ln_f"),
        **linear("unembedding", "lm_head"),
    },
    buffers=r"(transformer\.)?h\.\d+\.attn\.attention\.(bias|masked_bias)",
    prefix="transformer.",
)
