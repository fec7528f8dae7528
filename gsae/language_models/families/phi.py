"""Phi 1, 1.5 and 2 (Gunasekar et al. 2023): one norm before attention and MLP side by side, biases everywhere."""

from collections.abc import Mapping
from typing import Any

from gsae.language_models.families.family import Family
from gsae.language_models.families.llama import BUFFERS, read_heads, read_sizes
from gsae.language_models.families.positions import read_rotary
from gsae.language_models.families.reader import ACTIVATIONS, Reader
from gsae.language_models.families.tensors import Source, linear, norm
from gsae.language_models.settings import AttentionSettings, MLPSettings, NormSettings, Settings


def _settings(config: Mapping[str, Any]) -> Settings:
    reader = Reader(config)
    reader.ignore("embd_pdrop", "resid_pdrop")
    heads = read_heads(reader)
    epsilon = float(reader.number("layer_norm_eps", 1e-5))
    attention = AttentionSettings(
        **heads,
        rotary=read_rotary(reader, heads["head_width"], reader.count("max_position_embeddings"), fraction=0.5),
        query_key_norm=NormSettings("layer", epsilon) if reader.flag("qk_layernorm", False) else None,
    )
    settings = Settings(
        **read_sizes(reader),
        attention=(attention,) * reader.count("num_hidden_layers"),
        mlp=MLPSettings(reader.count("intermediate_size"), reader.choice("hidden_act", "gelu_new", ACTIVATIONS)),
        norm=NormSettings("layer", epsilon),
        parallel_residual=True,
        shared_norm=True,
        unembedding_bias=True,
    )
    reader.finish()
    return settings


LAYER = "model.layers.*"
PHI = Family(
    "phi",
    "PhiForCausalLM",
    _settings,
    sources={
        "embedding": Source("model.embed_tokens.weight"),
        **norm("layers.*.attention_norm", f"{LAYER}.input_layernorm"),
        **linear("layers.*.attention.q", f"{LAYER}.self_attn.q_proj"),
        **linear("layers.*.attention.k", f"{LAYER}.self_attn.k_proj"),
        **linear("layers.*.attention.v", f"{LAYER}.self_attn.v_proj"),
        **linear("layers.*.attention.out", f"{LAYER}.self_attn.dense"),
        **norm("layers.*.attention.q_norm", f"{LAYER}.self_attn.q_layernorm"),
        **norm("layers.*.attention.k_norm", f"{LAYER}.self_attn.k_layernorm"),
        **linear("layers.*.mlp.up", f"{LAYER}.mlp.fc1"),
        **linear("layers.*.mlp.down", f"{LAYER}.mlp.fc2"),
        **norm("final_norm", "model.final_layernorm"),
        "unembedding.kernel": Source("lm_head.weight", ("token", "width")),
        "unembedding_bias": Source("lm_head.bias"),
    },
    buffers=BUFFERS,
    prefix="model.",
)
