"""Logits and every site against the torch models of transformers, on directories that they saved themselves."""

import jax.numpy as jnp
import numpy as np
import pytest
from torch_models import save_random, torch_sites

from gsae.language_models.loading import load_language_model
from gsae.language_models.sites import Site, names_of

pytestmark = pytest.mark.parity

VOCABULARY, LENGTH = 97, 27
SPECIAL = {"pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 1}
NEOX = {
    "vocab_size": VOCABULARY,
    "hidden_size": 40,
    "num_hidden_layers": 3,
    "num_attention_heads": 5,  # not 3: q, k, v and heads could change places unseen
    "intermediate_size": 80,
    "max_position_embeddings": 32,
    **SPECIAL,
}
LLAMA = NEOX | {"num_attention_heads": 6, "num_key_value_heads": 2, "hidden_size": 36, "head_dim": 10}
# head_dim is not a setting of these two; and Gemma's configuration wants the heads to divide the width.
OLMO = {key: value for key, value in LLAMA.items() if key != "head_dim"}
GEMMA = LLAMA | {"sliding_window": 7}
GPT2 = {"vocab_size": VOCABULARY, "n_embd": 40, "n_layer": 3, "n_head": 5, "n_positions": 32, **SPECIAL}
NEO = {
    "vocab_size": VOCABULARY,
    "hidden_size": 40,
    "num_layers": 3,
    "num_heads": 5,
    "max_position_embeddings": 32,
    "window_size": 6,
    "attention_types": [[["global", "local"], 1], [["local"], 1]],
    **SPECIAL,
}
LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 5e3, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}  # fmt: skip
YARN = {"rope_type": "yarn", "rope_theta": 1e3, "factor": 4.0, "original_max_position_embeddings": 8}
LINEAR = {"rope_type": "linear", "rope_theta": 1e4, "factor": 3.0}
VISION = {
    "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "image_size": 28,
    "patch_size": 14,
}  # fmt: skip

CONFIGURATIONS = {
    "neox": ("GPTNeoX", NEOX),
    "neox-all-rotary": ("GPTNeoX", NEOX | {"rotary_pct": 1.0, "num_attention_heads": 4, "rotary_emb_base": 500.0}),
    "neox-serial": ("GPTNeoX", NEOX | {"use_parallel_residual": False}),
    "neox-tied-wide": ("GPTNeoX", NEOX | {"tie_word_embeddings": True, "intermediate_size": 200}),
    "neox-no-bias": ("GPTNeoX", NEOX | {"attention_bias": False, "hidden_act": "gelu_new", "layer_norm_eps": 1e-3}),
    "neox-relu": ("GPTNeoX", NEOX | {"hidden_act": "relu", "num_hidden_layers": 1, "rotary_pct": 0.5}),
    "llama": ("Llama", LLAMA),
    "llama-llama3": ("Llama", LLAMA | {"rope_parameters": LLAMA3, "tie_word_embeddings": True}),
    "llama-biases": ("Llama", LLAMA | {"attention_bias": True, "mlp_bias": True, "rope_parameters": LINEAR}),
    "llama-no-groups": ("Llama", NEOX | {"rms_norm_eps": 1e-3, "hidden_act": "gelu"}),
    "mistral": ("Mistral", LLAMA | {"sliding_window": 7}),
    "mistral-whole": ("Mistral", OLMO | {"sliding_window": None, "num_key_value_heads": 1}),
    "qwen2": ("Qwen2", OLMO),
    "qwen2-windows": (
        "Qwen2",
        OLMO
        | {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1, "tie_word_embeddings": True}
        | {"rope_parameters": YARN},
    ),
    "qwen3": ("Qwen3", LLAMA),
    "qwen3-bias": ("Qwen3", LLAMA | {"attention_bias": True, "tie_word_embeddings": True, "num_key_value_heads": 3}),
    "gemma": ("Gemma", LLAMA),
    "gemma-untied": ("Gemma", LLAMA | {"tie_word_embeddings": False, "num_key_value_heads": 1}),
    "gemma2": ("Gemma2", GEMMA | {"query_pre_attn_scalar": 17, "attn_logit_softcapping": 2.0}),
    "gemma2-no-caps": (
        "Gemma2",
        GEMMA | {"attn_logit_softcapping": None, "final_logit_softcapping": None, "attention_bias": True},
    ),
    "gemma3": ("Gemma3", GEMMA | {"num_hidden_layers": 4, "sliding_window_pattern": 3, "query_pre_attn_scalar": 5}),
    "gemma3-scaled": (
        "Gemma3",
        GEMMA
        | {"layer_types": ["full_attention", "sliding_attention", "full_attention"], "final_logit_softcapping": 3.0}
        | {"rope_parameters": {"full_attention": LINEAR, "sliding_attention": {"rope_theta": 100.0}}},
    ),
    "gemma3-of-images": (
        "Gemma3Conditional",
        {"text_config": GEMMA | {"num_hidden_layers": 7}, "vision_config": VISION, "mm_tokens_per_image": 1},
    ),
    "olmo2": ("Olmo2", OLMO),
    "olmo2-bias": ("Olmo2", OLMO | {"attention_bias": True, "tie_word_embeddings": True, "num_key_value_heads": 6}),
    "phi": ("Phi", NEOX),
    "phi-norms": ("Phi", OLMO | {"qk_layernorm": True, "partial_rotary_factor": 0.7, "hidden_act": "gelu"}),
    "gptj": ("GPTJ", GPT2 | {"rotary_dim": 4}),
    "gptj-whole": ("GPTJ", GPT2 | {"rotary_dim": 8, "n_inner": 70, "activation_function": "relu"}),
    "gptneo": ("GPTNeo", NEO),
    "gptneo-untied": ("GPTNeo", NEO | {"tie_word_embeddings": False, "intermediate_size": 50, "window_size": 1}),
    "gpt2": ("GPT2", GPT2),
    "gpt2-by-depth": (
        "GPT2",
        GPT2 | {"scale_attn_by_inverse_layer_idx": True, "n_inner": 50, "tie_word_embeddings": False},
    ),
    "gpt2-unscaled": ("GPT2", GPT2 | {"scale_attn_weights": False, "activation_function": "gelu"}),
}
ARCHITECTURES = {"GPT2": "GPT2LMHeadModel", "Gemma3Conditional": "Gemma3ForConditionalGeneration"}
ONE_OF_EACH = [
    "neox", "gpt2", "llama", "mistral", "qwen2-windows", "qwen3", "gemma", "gemma2", "gemma3", "olmo2", "phi", "gptj",
    "gptneo",
]  # fmt: skip
configurations = pytest.mark.parametrize("name", CONFIGURATIONS)
one_of_each = pytest.mark.parametrize("name", ONE_OF_EACH)


def saved(directory, name, **options):
    family, config = CONFIGURATIONS[name]
    return save_random(directory, ARCHITECTURES.get(family, f"{family}ForCausalLM"), config, **options)


def tokens_of(sequences=3):
    return np.random.default_rng(0).integers(2, VOCABULARY, (sequences, LENGTH))


def our_sites(directory, tokens, mask=None, positions=None, dtype="float32"):
    model = load_language_model(str(directory), dtype=dtype).model
    mask, positions = (x if x is None else jnp.asarray(x) for x in (mask, positions))
    sites = [Site(layer, name) for layer in range(model.settings.num_layers) for name in names_of(model.settings)]
    h, captured = model.blocks(
        model.embed(jnp.asarray(tokens), positions),
        0,
        model.settings.num_layers,
        capture=sites,
        positions_BT=positions,
        seen_BT=mask,
    )
    return np.asarray(model.unembed(h), np.float32), {site: np.asarray(captured[site], np.float32) for site in sites}


def assert_equal(ours, theirs, where=None):
    where = np.ones(ours[0].shape[:2], bool) if where is None else where
    assert set(ours[1]) == set(theirs[1])
    for site, array in ours[1].items():
        scale = max(1.0, np.abs(theirs[1][site][where]).max())
        np.testing.assert_allclose(
            array[where] / scale, theirs[1][site][where] / scale, atol=1e-4, rtol=0, err_msg=str(site)
        )
    np.testing.assert_allclose(ours[0][where], theirs[0][where], atol=1e-4, rtol=0)


@configurations
def test_logits_and_sites_equal_torch(tmp_path, name):
    theirs = saved(tmp_path, name)
    expected = torch_sites(theirs, tokens_of())
    assert expected[0].std() > 0.1  # something to compare
    assert_equal(our_sites(tmp_path, tokens_of()), expected)


@one_of_each
def test_padding_on_either_side_equals_torch(tmp_path, name):
    theirs = saved(tmp_path, name)
    right = np.arange(LENGTH) < np.array([[LENGTH], [LENGTH - 5], [LENGTH - 12]])
    for mask in (right, right[:, ::-1].copy()):
        tokens = np.where(mask, tokens_of(), 0)
        positions = np.maximum(np.cumsum(mask, 1) - 1, 0)
        for given in (None, positions):
            expected = torch_sites(theirs, tokens, mask, given)
            assert_equal(our_sites(tmp_path, tokens, mask, given), expected, mask)


@one_of_each
def test_bfloat16_is_as_near_to_float32_as_torch_is(tmp_path, name):
    import torch

    theirs = saved(tmp_path, name, dtype=torch.bfloat16)
    exact, sites = torch_sites(theirs.float(), tokens_of())
    rounded, rounded_sites = torch_sites(theirs.to(torch.bfloat16), tokens_of())
    logits, captured = our_sites(tmp_path, tokens_of(), dtype="bfloat16")
    for site, array in (sites | {"logits": exact}).items():
        ours, torchs = captured.get(site, logits), rounded_sites.get(site, rounded)
        error, theirs_error = (np.sqrt(np.mean((x - array) ** 2)) for x in (ours, torchs))
        assert error < 1.5 * theirs_error + 2**-9 * np.sqrt(np.mean(array**2)), site


def test_several_files_load_as_one(tmp_path):
    theirs = saved(tmp_path, "llama", sharded=True)
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 2
    assert_equal(our_sites(tmp_path, tokens_of()), torch_sites(theirs, tokens_of()))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_smaller_dtypes_load_as_float32(tmp_path, dtype):
    import torch

    theirs = saved(tmp_path, "gpt2", dtype=getattr(torch, dtype))
    assert_equal(our_sites(tmp_path, tokens_of()), torch_sites(theirs.float(), tokens_of()))


def test_the_bundled_model_equals_torch():
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    bundled = load_language_model("bundled")
    directory = str(__import__("gsae").__path__[0]) + "/language_models/bundled"
    theirs = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(directory)
    text = "class Reader:\n    def __init__(self, file):\n        self.file = file  # naïve\n"
    assert tokenizer(text, add_special_tokens=False)["input_ids"] == bundled.tokenizer.encode(text)
    assert tokenizer.eos_token_id == bundled.separator_id
    tokens = np.random.default_rng(0).integers(0, 4096, (2, 128))
    tokens[0, : len(bundled.tokenizer.encode(text))] = bundled.tokenizer.encode(text)
    assert_equal(our_sites(directory, tokens), torch_sites(theirs, tokens))
