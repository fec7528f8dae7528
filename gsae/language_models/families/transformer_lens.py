"""Models in TransformerLens' own format: GELU-1L to 4L, SoLU and attention-only models (Nanda 2022)."""

import re
from collections.abc import Mapping
from typing import Any

from gsae.language_models.families.family import Family
from gsae.language_models.families.reader import Reader, refused
from gsae.language_models.families.tensors import Source
from gsae.language_models.settings import AttentionSettings, MLPSettings, NormSettings, Settings

# What the file says about the run that trained the model.
OF_TRAINING = (
    "batch_size", "batch_size_per_device", "batches_per_step", "betas", "control", "dataset_name", "debug",
    "debug_batch", "debug_overfit", "default_prepend_bos", "device", "fixed_init", "from_checkpoint",
    "grad_norm_clip", "init_mode", "init_weights", "initializer_scale_embed", "initializer_scale_global",
    "initializer_scale_hidden", "initializer_scale_unembed", "log_interval", "lr", "lr_hidden", "lr_schedule",
    "lr_vector", "max_steps", "max_tokens", "model_name", "n_devices", "n_params", "neuron_scale", "neuron_temp",
    "original_architecture", "save_checkpoints", "seed", "store_init", "tokenizer_name", "tokenizer_prepends_bos",
    "tokens_per_step", "train_loss_ewma_beta", "truncate_tokens", "use_acc", "use_attn_result", "use_bfloat16_matmul",
    "use_float16", "use_hook_tokens", "use_split_qkv_input", "version", "warmup_tokens", "weight_decay",
    "weight_init_scheme",
)  # fmt: skip
ACTIVATIONS = {
    "gelu": ("gelu", False),
    "gelu_new": ("gelu_tanh", False),
    "gelu_fast": ("gelu_tanh", False),
    "relu": ("relu", False),
    "silu": ("silu", False),
    "solu": ("solu", False),
    "solu_ln": ("solu", True),
}
NORMS = {"LN": True, "LNPre": False}


def _settings(config: Mapping[str, Any]) -> Settings:
    reader = Reader(config)
    reader.ignore(*OF_TRAINING)
    for flag, plain in (("use_attn_scale", True), ("use_local_attn", False), ("shortformer_pos", False),
                        ("final_rms", False), ("parallel_attn_mlp", False), ("gated_mlp", False)):  # fmt: skip
        reader.choice(flag, plain, {plain: plain})
    positions = reader.config.get("positional_embedding_type")
    if positions is not None and not re.match("standard$", str(positions)):
        raise refused(
            "positional_embedding_type", positions, "is not implemented; learned positions that are added are"
        )
    reader.ignore("positional_embedding_type")
    reader.choice("attention_dir", "causal", {"causal": None})
    key = "normalization" if "normalization" in config else "normalization_type"
    learned = reader.choice(key, "LN", NORMS)
    epsilon = float(reader.number("ln_eps" if "ln_eps" in config else "eps", 1e-5))
    norm = NormSettings("layer", epsilon, scale=learned, bias=learned)
    heads, head_width = reader.count("n_heads"), reader.count("d_head")
    attention = AttentionSettings(heads=heads, key_heads=heads, head_width=head_width, scale=head_width**-0.5)
    mlp = None
    if not reader.flag("attn_only", False):
        activation, normed = reader.choice("act_fn", None, ACTIVATIONS)
        mlp = MLPSettings(reader.count("d_mlp"), activation, norm=norm if normed else None)
    reader.ignore("act_fn", "d_mlp")
    vocabulary = reader.count("d_vocab")
    if reader.config.get("d_vocab_out", -1) not in (-1, vocabulary):
        raise refused("d_vocab_out", reader.config["d_vocab_out"], f"must be d_vocab = {vocabulary}")
    reader.ignore("d_vocab_out")
    settings = Settings(
        width=reader.count("d_model"),
        vocabulary=vocabulary,
        context_length=reader.count("n_ctx"),
        attention=(attention,) * reader.count("n_layers"),
        mlp=mlp,
        norm=norm,
        learned_positions=True,
        unembedding_bias=True,
    )
    reader.finish()
    return settings


def _norm(path: str, name: str) -> dict[str, Source]:
    return {f"{path}.scale": Source(f"{name}.w"), f"{path}.bias": Source(f"{name}.b")}


def _projection(path: str, letter: str, heads: str) -> dict[str, Source]:
    return {
        f"{path}.kernel": Source(f"blocks.*.attn.W_{letter}", (heads, "width", "number")),
        f"{path}.bias": Source(f"blocks.*.attn.b_{letter}", (heads, "number")),
    }


TRANSFORMER_LENS = Family(
    "transformer_lens",
    "HookedTransformer",
    _settings,
    sources={
        "embedding": Source("embed.W_E"),
        "positions": Source("pos_embed.W_pos"),
        **_norm("layers.*.attention_norm", "blocks.*.ln1"),
        **_projection("layers.*.attention.q", "Q", "head"),
        **_projection("layers.*.attention.k", "K", "key_head"),
        **_projection("layers.*.attention.v", "V", "key_head"),
        "layers.*.attention.out.kernel": Source("blocks.*.attn.W_O", ("head", "number", "width")),
        "layers.*.attention.out.bias": Source("blocks.*.attn.b_O"),
        **_norm("layers.*.mlp_norm", "blocks.*.ln2"),
        "layers.*.mlp.up.kernel": Source("blocks.*.mlp.W_in"),
        "layers.*.mlp.up.bias": Source("blocks.*.mlp.b_in"),
        **_norm("layers.*.mlp.norm", "blocks.*.mlp.ln"),
        "layers.*.mlp.down.kernel": Source("blocks.*.mlp.W_out"),
        "layers.*.mlp.down.bias": Source("blocks.*.mlp.b_out"),
        **_norm("final_norm", "ln_final"),
        "unembedding.kernel": Source("unembed.W_U"),
        "unembedding_bias": Source("unembed.b_U"),
    },
    buffers=r"blocks\.\d+\.attn\.(mask|IGNORE)",
)
