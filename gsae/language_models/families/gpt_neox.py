"""GPT-NeoX: all Pythia models (Biderman et al. 2023)."""

from collections.abc import Mapping
from typing import Any

from gsae.language_models.families.family import Family
from gsae.language_models.families.positions import read_rotary
from gsae.language_models.families.reader import ACTIVATIONS, Reader, refused
from gsae.language_models.families.tensors import Source, linear, norm
from gsae.language_models.settings import AttentionSettings, MLPSettings, NormSettings, Settings

FUSED = "head part number"


def _settings(config: Mapping[str, Any]) -> Settings:
    reader = Reader(config)
    reader.ignore("attention_dropout", "hidden_dropout")
    width, heads = reader.count("hidden_size"), reader.count("num_attention_heads")
    if width % heads:
        raise refused("num_attention_heads", heads, f"must divide hidden_size = {width}")
    context_length = reader.count("max_position_embeddings")
    bias = reader.flag("attention_bias", True)
    attention = AttentionSettings(
        heads=heads,
        key_heads=heads,
        head_width=width // heads,
        scale=(width // heads) ** -0.5,
        rotary=read_rotary(
            reader,
            width // heads,
            context_length,
            base_key="rotary_emb_base",
            fraction_key="rotary_pct",
            fraction=0.25,
        ),
        qkv_bias=bias,
        out_bias=bias,
    )
    settings = Settings(
        width=width,
        vocabulary=reader.count("vocab_size"),
        context_length=context_length,
        attention=(attention,) * reader.count("num_hidden_layers"),
        mlp=MLPSettings(reader.count("intermediate_size"), reader.choice("hidden_act", "gelu", ACTIVATIONS)),
        norm=NormSettings("layer", float(reader.number("layer_norm_eps", 1e-5))),
        parallel_residual=reader.flag("use_parallel_residual", True),
        tied_embeddings=reader.flag("tie_word_embeddings", False),
    )
    reader.finish()
    return settings


LAYER = "gpt_neox.layers.*"
GPT_NEOX = Family(
    model_type="gpt_neox",
    architecture="GPTNeoXForCausalLM",
    settings=_settings,
    sources={
        "embedding": Source("gpt_neox.embed_in.weight"),
        **norm("layers.*.attention_norm", f"{LAYER}.input_layernorm"),
        **linear("layers.*.attention.q", f"{LAYER}.attention.query_key_value", FUSED, 0),
        **linear("layers.*.attention.k", f"{LAYER}.attention.query_key_value", FUSED, 1),
        **linear("layers.*.attention.v", f"{LAYER}.attention.query_key_value", FUSED, 2),
        **linear("layers.*.attention.out", f"{LAYER}.attention.dense"),
        **norm("layers.*.mlp_norm", f"{LAYER}.post_attention_layernorm"),
        **linear("layers.*.mlp.up", f"{LAYER}.mlp.dense_h_to_4h"),
        **linear("layers.*.mlp.down", f"{LAYER}.mlp.dense_4h_to_h"),
        **norm("final_norm", "gpt_neox.final_layer_norm"),
        **linear("unembedding", "embed_out"),
    },
    buffers=r"gpt_neox\.layers\.\d+\.attention\.(bias|masked_bias|rotary_emb\.inv_freq)",
    prefix="gpt_neox.",
)
