"""GPT-J (Wang and Komatsuzaki 2021): one norm before attention and MLP side by side, neighbours rotated as pairs."""

from collections.abc import Mapping
from typing import Any

from gsae.language_models.families.family import Family
from gsae.language_models.families.gpt2 import IGNORED, read_plain_heads
from gsae.language_models.families.reader import ACTIVATIONS, Reader, refused
from gsae.language_models.families.tensors import Source, linear, norm
from gsae.language_models.settings import AttentionSettings, MLPSettings, NormSettings, RotarySettings, Settings


def _settings(config: Mapping[str, Any]) -> Settings:
    reader = Reader(config)
    reader.ignore(*IGNORED)
    reader.choice("rotary", True, {True: True})
    reader.choice("scale_attn_weights", True, {True: True})
    width, rotary_width = reader.count("n_embd"), reader.count_or_none("rotary_dim", 64) or 0
    heads = read_plain_heads(width, reader.count("n_head"), "n_head")
    if rotary_width % 2 or not 0 < rotary_width <= heads["head_width"]:
        raise refused("rotary_dim", rotary_width, f"must be an even part of a head's {heads['head_width']} numbers")
    rotary = RotarySettings(rotary_width, 10000.0, interleaved=True)
    attention = AttentionSettings(**heads, rotary=rotary, qkv_bias=False, out_bias=False)
    tied = reader.flag("tie_word_embeddings", False)
    settings = Settings(
        width=width,
        vocabulary=reader.count("vocab_size"),
        context_length=reader.count("n_positions"),
        attention=(attention,) * reader.count("n_layer"),
        mlp=MLPSettings(
            reader.count("n_inner", 4 * width), reader.choice("activation_function", "gelu_new", ACTIVATIONS)
        ),
        norm=NormSettings("layer", float(reader.number("layer_norm_epsilon", 1e-5))),
        parallel_residual=True,
        shared_norm=True,
        tied_embeddings=tied,
        unembedding_bias=True,
    )
    reader.finish()
    return settings


LAYER = "transformer.h.*"
GPTJ = Family(
    "gptj",
    "GPTJForCausalLM",
    _settings,
    sources={
        "embedding": Source("transformer.wte.weight"),
        **norm("layers.*.attention_norm", f"{LAYER}.ln_1"),
        **linear("layers.*.attention.q", f"{LAYER}.attn.q_proj"),
        **linear("layers.*.attention.k", f"{LAYER}.attn.k_proj"),
        **linear("layers.*.attention.v", f"{LAYER}.attn.v_proj"),
        **linear("layers.*.attention.out", f"{LAYER}.attn.out_proj"),
        **linear("layers.*.mlp.up", f"{LAYER}.mlp.fc_in"),
        **linear("layers.*.mlp.down", f"{LAYER}.mlp.fc_out"),
        **norm("final_norm", "transformer.ln_f"),
        "unembedding.kernel": Source("lm_head.weight", ("token", "width")),
        "unembedding_bias": Source("lm_head.bias"),
    },
    buffers=r"(transformer\.)?h\.\d+\.attn\.(bias|masked_bias|embed_positions)",
    prefix="transformer.",
)
