"""GPT-2 (Radford et al. 2019)."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from gsae.language_models.families.family import Family
from gsae.language_models.families.reader import ACTIVATIONS, Reader, refused
from gsae.language_models.families.tensors import Source, conv1d, norm
from gsae.language_models.settings import AttentionSettings, MLPSettings, NormSettings, Settings

NAMES = {"width": "n_embd", "layers": "n_layer", "heads": "n_head", "positions": "n_positions"}
# Of training, generation and classification.
IGNORED = (
    "attn_pdrop",
    "embd_pdrop",
    "resid_pdrop",
    "n_ctx",
    "summary_activation",
    "summary_first_dropout",
    "summary_proj_to_labels",
    "summary_type",
    "summary_use_proj",
)


def read_plain_heads(width: int, heads: int, key: str) -> dict[str, Any]:
    """Heads that share the width among them."""
    if width % heads:
        raise refused(key, heads, f"must divide the width, {width}")
    return {"heads": heads, "key_heads": heads, "head_width": width // heads, "scale": (width // heads) ** -0.5}


def _settings(config: Mapping[str, Any]) -> Settings:
    reader = Reader(config)
    # reorder_and_upcast_attn only says in which precision and order; here it is always float32.
    reader.ignore(*IGNORED, "reorder_and_upcast_attn")
    reader.choice("add_cross_attention", False, {False: False})
    width, layers = reader.count("n_embd"), reader.count("n_layer")
    attention = AttentionSettings(**read_plain_heads(width, reader.count("n_head"), "n_head"))
    if not reader.flag("scale_attn_weights", True):
        attention = dataclasses.replace(attention, scale=1.0)
    by_depth = reader.flag("scale_attn_by_inverse_layer_idx", False)
    scales = [attention.scale / (layer + 1 if by_depth else 1) for layer in range(layers)]
    settings = Settings(
        width=width,
        vocabulary=reader.count("vocab_size"),
        context_length=reader.count("n_positions"),
        attention=tuple(dataclasses.replace(attention, scale=scale) for scale in scales),
        mlp=MLPSettings(
            reader.count("n_inner", 4 * width), reader.choice("activation_function", "gelu_new", ACTIVATIONS)
        ),
        norm=NormSettings("layer", float(reader.number("layer_norm_epsilon", 1e-5))),
        learned_positions=True,
        tied_embeddings=reader.flag("tie_word_embeddings", True),
    )
    reader.finish()
    return settings


LAYER = "transformer.h.*"
FUSED = "part head number"
GPT2 = Family(
    "gpt2",
    "GPT2LMHeadModel",
    _settings,
    sources={
        "embedding": Source("transformer.wte.weight"),
        "positions": Source("transformer.wpe.weight"),
        **norm("layers.*.attention_norm", f"{LAYER}.ln_1"),
        **conv1d("layers.*.attention.q", f"{LAYER}.attn.c_attn", FUSED, 0),
        **conv1d("layers.*.attention.k", f"{LAYER}.attn.c_attn", FUSED, 1),
        **conv1d("layers.*.attention.v", f"{LAYER}.attn.c_attn", FUSED, 2),
        **conv1d("layers.*.attention.out", f"{LAYER}.attn.c_proj"),
        **norm("layers.*.mlp_norm", f"{LAYER}.ln_2"),
        **conv1d("layers.*.mlp.up", f"{LAYER}.mlp.c_fc"),
        **conv1d("layers.*.mlp.down", f"{LAYER}.mlp.c_proj"),
        **norm("final_norm", "transformer.ln_f"),
        "unembedding.kernel": Source("lm_head.weight", ("token", "width")),
    },
    buffers=r"(transformer\.)?h\.\d+\.attn\.(bias|masked_bias)",
    prefix="transformer.",
)
