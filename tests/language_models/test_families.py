"""The tables that lead from a file's tensors to the parameters."""

import re
from pathlib import Path

import numpy as np
import pytest
from flax import nnx
from shipped_configs import CONFIGS as SHIPPED

from gsae.errors import SettingError
from gsae.language_models.families import FAMILIES, family_of
from gsae.language_models.settings import LinearScaling, Llama3Scaling
from gsae.language_models.transformer import Transformer

# One small configuration for each family, with heads, key heads and widths that could not be mistaken for each other.
LLAMA = {
    "hidden_size": 20,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "intermediate_size": 24,
    "vocab_size": 30,
    "max_position_embeddings": 12,
}
GPT2 = {"n_embd": 40, "n_layer": 2, "n_head": 5, "n_positions": 12, "vocab_size": 30}
CONFIGS = {
    "gpt_neox": {key: LLAMA[key] for key in LLAMA if key not in ("head_dim", "num_key_value_heads")}
    | {"hidden_size": 48},
    "gpt2": GPT2,
    "llama": LLAMA,
    "mistral": LLAMA,
    "qwen2": LLAMA,
    "qwen3": LLAMA,
    "gemma": LLAMA,
    "gemma2": LLAMA,
    "gemma3_text": LLAMA,
    "gemma3": {"text_config": LLAMA},
    "olmo2": LLAMA,
    "phi": LLAMA | {"qk_layernorm": True},
    "gptj": GPT2 | {"rotary_dim": 4},
    "gpt_neo": {
        "hidden_size": 40,
        "num_layers": 2,
        "num_heads": 5,
        "max_position_embeddings": 12,
        "vocab_size": 30,
        "attention_types": [[["global", "local"], 1]],
    },
    "transformer_lens": {
        "d_model": 20,
        "d_head": 8,
        "n_heads": 3,
        "n_layers": 2,
        "d_mlp": 24,
        "d_vocab": 30,
        "n_ctx": 12,
        "act_fn": "solu_ln",
    },
}
families = pytest.mark.parametrize("name", CONFIGS)


def file_of(tensors):
    """Every tensor of a file, filled with numbers that are all different."""
    arrays = {}
    for tensor in tensors:
        size = int(np.prod(tensor.file_shape))
        arrays[tensor.name] = np.arange(size, dtype=np.float32).reshape(tensor.file_shape) + len(arrays) * 1e5
    return arrays


def test_every_family_has_a_configuration_here():
    assert set(CONFIGS) == set(FAMILIES)


def test_the_readme_names_every_family():
    table = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^\| `(\w+)` \| .* `\w+` \|", table, re.MULTILINE)) == set(FAMILIES)


@families
def test_the_table_has_exactly_the_parameters_of_the_model(name):
    settings = FAMILIES[name].settings(CONFIGS[name])
    state = nnx.state(nnx.eval_shape(lambda: Transformer(settings, nnx.Rngs(0))), nnx.Param)
    shapes = {path: leaf.shape for path, leaf in nnx.to_flat_state(state)}
    assert {tensor.path: tensor.shape for tensor in FAMILIES[name].tensors(settings)} == shapes


@families
def test_what_is_read_from_a_file_and_written_gives_the_file_back(name):
    tensors = FAMILIES[name].tensors(FAMILIES[name].settings(CONFIGS[name]))
    arrays = file_of(tensors)
    written = {key: np.full_like(array, -1) for key, array in arrays.items()}
    for tensor in tensors:
        everything = [slice(None)] * len(tensor.shape)
        tensor.layout.write(
            tensor.layout.read(arrays[tensor.name].__getitem__, everything, np.float32), written[tensor.name]
        )
    for key, array in arrays.items():
        np.testing.assert_array_equal(written[key], array)


@families
def test_shared_axes_are_cut_between_heads_and_neurons(name):
    tensors = FAMILIES[name].tensors(FAMILIES[name].settings(CONFIGS[name]))
    for tensor in tensors:
        for shared, blocks, length in zip(tensor.partition, tensor.blocks, tensor.shape, strict=True):
            assert length % blocks == 0
            assert (shared is None) == (blocks == 1)
    shared = {tensor.path[2:]: tensor.partition for tensor in tensors if tensor.path[:2] == ("layers", 1)}
    assert shared[("attention", "k", "kernel")] == (None, "heads")
    assert shared[("attention", "out", "kernel")] == ("heads", None)


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_configurations_are_read_whole(name):
    config = SHIPPED[name]
    settings = family_of(config).settings(config)
    config = config.get("text_config", config)
    for key in ("num_hidden_layers", "n_layer", "n_layers", "num_layers"):
        assert settings.num_layers == config.get(key, settings.num_layers)
    for key in ("hidden_size", "n_embd", "d_model"):
        assert settings.width == config.get(key, settings.width)
    with pytest.raises(SettingError, match=r"a_new_trick = 3.*not a setting that is implemented for this family"):
        whole = SHIPPED[name] | ({"text_config": config | {"a_new_trick": 3}} if config is not SHIPPED[name] else {})
        family_of(whole).settings(whole if config is not SHIPPED[name] else whole | {"a_new_trick": 3})


def test_settings_that_follow_from_shipped_configurations():
    def settings_of(name):
        return family_of(SHIPPED[name]).settings(SHIPPED[name])

    assert [layer.window for layer in settings_of("google/gemma-2-2b").attention[:3]] == [4096, None, 4096]
    assert settings_of("google/gemma-2b").mlp.activation == "gelu_tanh"  # says gelu, was trained with this
    gemma3 = settings_of("google/gemma-3-4b-pt")
    assert [layer.window for layer in gemma3.attention].count(None) == 5
    assert (gemma3.attention[5].rotary.base, gemma3.attention[5].rotary.scaling) == (1e6, LinearScaling(8.0))
    assert (gemma3.attention[0].rotary.base, gemma3.attention[0].rotary.scaling) == (1e4, None)
    assert gemma3.vocabulary == 262208
    llama = settings_of("meta-llama/Llama-3.2-1B")
    assert llama.attention[0].rotary.scaling == Llama3Scaling(32.0, 1.0, 4.0, 8192)
    assert llama.tied_embeddings
    assert settings_of("Qwen/Qwen2.5-0.5B").attention[0].window is None
    assert settings_of("microsoft/phi-2").attention[0].rotary.width == 32
    assert settings_of("roneneldan/TinyStories-33M").attention[1].window == 256


@pytest.mark.parametrize(
    ("name", "changes", "words"),
    [
        ("llama", {"num_key_value_heads": 4}, "num_key_value_heads = 4"),
        ("llama", {"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}, "rope_type = dynamic"),
        ("llama", {"rope_scaling": {"rope_type": "llama3", "factor": 2.0}}, "low_freq_factor"),
        ("llama", {"rope_scaling": {"rope_type": "linear", "factor": 2.0, "twist": 1}}, "twist = 1"),
        ("qwen2", {"use_mrope": True}, "use_mrope = True"),
        ("qwen3", {"layer_types": ["full_attention", "chunked_attention"]}, "layer_types"),
        ("qwen3", {"layer_types": ["full_attention"]}, "list of 2"),
        ("gemma2", {"use_bidirectional_attention": True}, "use_bidirectional_attention = True"),
        ("gemma3_text", {"attn_logit_softcapping": 5.0}, "attn_logit_softcapping = 5.0"),
        ("gpt2", {"add_cross_attention": True}, "add_cross_attention = True"),
        ("gpt2", {"n_head": 3}, "n_head = 3"),
        ("gptj", {"rotary_dim": 3}, "rotary_dim = 3"),
        ("gptj", {"rotary_dim": None}, "rotary_dim = 0"),
        ("llama", {"partial_rotary_factor": 0.5}, "partial_rotary_factor = 0.5"),
        ("gpt_neo", {"attention_types": [[["global"], 3]]}, "attention_types"),
        ("phi", {"partial_rotary_factor": 1.5}, "partial_rotary_factor = 1.5"),
        ("transformer_lens", {"act_fn": "gelu_7"}, "act_fn = gelu_7"),
        ("transformer_lens", {"shortformer_pos": True}, "shortformer_pos = True"),
        ("transformer_lens", {"normalization": "RMS"}, "normalization = RMS"),
        ("transformer_lens", {"positional_embedding_type": "rotary"}, "positional_embedding_type = rotary"),
    ],
)
def test_what_is_not_implemented_is_refused_by_name(name, changes, words):
    with pytest.raises(SettingError, match=words) as caught:
        FAMILIES[name].settings(CONFIGS[name] | changes)
    assert "\n" not in str(caught.value)


def test_an_unsupported_architecture_names_itself_and_the_supported_ones():
    with pytest.raises(SettingError, match=r"model_type = mamba.: is not a supported family; .*gpt_neox, gpt2, llama"):
        family_of({"model_type": "mamba"})


def test_names_of_other_files_are_known():
    settings = FAMILIES["gpt2"].settings(CONFIGS["gpt2"])
    known = {
        "h.1.ln_1.weight": "transformer.h.1.ln_1.weight",
        "wte.weight": "transformer.wte.weight",
        "h.0.attn.bias": None,
        "transformer.h.0.attn.masked_bias": None,
        "lm_head.weight": None,  # the tied copy
        "extra": "extra",
    }
    assert {name: FAMILIES["gpt2"].known_as(name, settings) for name in known} == known
    settings = FAMILIES["gemma3"].settings(CONFIGS["gemma3"])
    for prefix in ("language_model.model.", "model.language_model."):
        assert FAMILIES["gemma3"].known_as(f"{prefix}norm.weight", settings) == "model.norm.weight"
    assert FAMILIES["gemma3"].known_as("vision_tower.x.weight", settings) is None
