"""Logits and every site against the torch implementation in transformers, on directories that it saved itself."""

import jax.numpy as jnp
import numpy as np
import pytest
from tokenizers import Tokenizer, models

from gsae.language_models.loading import load_language_model
from gsae.language_models.sites import NAMES, Site

pytestmark = pytest.mark.parity

BASE = {
    "vocab_size": 97,
    "hidden_size": 40,
    "num_hidden_layers": 3,
    "num_attention_heads": 5,  # not 3: q, k, v and heads could change places unseen
    "intermediate_size": 80,
    "max_position_embeddings": 32,
    "rotary_pct": 0.25,
}
CONFIGURATIONS = {
    "odd-heads": {},
    "all-rotary": {"rotary_pct": 1.0, "num_attention_heads": 4, "rotary_emb_base": 500.0},
    "serial": {"use_parallel_residual": False},
    "serial-tied-wide": {"use_parallel_residual": False, "tie_word_embeddings": True, "intermediate_size": 200},
    "no-bias-tanh": {"attention_bias": False, "hidden_act": "gelu_new", "layer_norm_eps": 1e-3},
    "relu-one-layer": {"hidden_act": "relu", "num_hidden_layers": 1, "rotary_pct": 0.5},
}


def save_random(directory, sharded=False, **changes):
    import torch
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    torch.manual_seed(0)
    model = GPTNeoXForCausalLM(GPTNeoXConfig(**(BASE | changes))).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # biases and norms too, and large enough to matter
            parameter.add_(0.3 * torch.randn_like(parameter) / max(parameter.shape[-1], 1) ** 0.5)
    model.save_pretrained(directory, max_shard_size="20KB" if sharded else "5GB")
    Tokenizer(models.WordLevel({"a": 0, "b": 1}, unk_token="a")).save(str(directory / "tokenizer.json"))
    return model


def torch_sites(model, tokens):
    """Every site by hooks on the modules, and the logits."""
    import torch

    found = {}

    def keep(site, array):
        found[site] = array.detach().float().numpy()

    for i, layer in enumerate(model.gpt_neox.layers):
        layer.register_forward_pre_hook(lambda _, args, i=i: keep(Site(i, "resid_pre"), args[0]))
        layer.register_forward_hook(
            lambda _, args, out, i=i: keep(Site(i, "resid_post"), out[0] if isinstance(out, tuple) else out)
        )
        layer.attention.dense.register_forward_pre_hook(lambda _, args, i=i: keep(Site(i, "attn_z"), args[0]))
        layer.attention.dense.register_forward_hook(lambda _, args, out, i=i: keep(Site(i, "attn_out"), out))
        layer.mlp.dense_4h_to_h.register_forward_pre_hook(lambda _, args, i=i: keep(Site(i, "mlp_act"), args[0]))
        layer.mlp.dense_4h_to_h.register_forward_hook(lambda _, args, out, i=i: keep(Site(i, "mlp_out"), out))
    with torch.no_grad():
        logits = model(torch.from_numpy(tokens)).logits.float().numpy()
    for i in range(len(model.gpt_neox.layers)):
        found[Site(i, "resid_mid")] = found[Site(i, "resid_pre")] + found[Site(i, "attn_out")]
    return logits, found


def assert_equal_everywhere(theirs, directory, tokens):
    ours = load_language_model(str(directory)).model
    sites = [Site(layer, name) for layer in range(ours.settings.num_layers) for name in NAMES]
    h, captured = ours.blocks(ours.embed(jnp.asarray(tokens)), 0, ours.settings.num_layers, capture=sites)
    logits, found = torch_sites(theirs, tokens)
    for site in sites:
        np.testing.assert_allclose(captured[site], found[site], atol=1e-4, rtol=1e-4, err_msg=str(site))
    np.testing.assert_allclose(ours.unembed(h), logits, atol=1e-4, rtol=1e-4)
    return logits


@pytest.mark.parametrize("changes", CONFIGURATIONS.values(), ids=CONFIGURATIONS)
def test_logits_and_sites_equal_torch(tmp_path, changes):
    theirs = save_random(tmp_path, **changes)
    tokens = np.random.default_rng(0).integers(0, BASE["vocab_size"], (3, 29))
    logits = assert_equal_everywhere(theirs, tmp_path, tokens)
    assert logits.std() > 0.1  # something to compare


def test_a_sharded_file_loads_the_same(tmp_path):
    theirs = save_random(tmp_path, sharded=True)
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 2
    assert_equal_everywhere(theirs, tmp_path, np.arange(40).reshape(2, 20))


def test_float16_and_bfloat16_files_load_as_float32(tmp_path):
    import torch

    for dtype in (torch.float16, torch.bfloat16):
        directory = tmp_path / str(dtype)
        theirs = save_random(directory).to(dtype)
        theirs.save_pretrained(directory)
        assert_equal_everywhere(theirs.float(), directory, np.arange(40).reshape(2, 20))


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
    tokens = np.random.default_rng(0).integers(0, 4096, (2, 256))
    tokens[0, : len(bundled.tokenizer.encode(text))] = bundled.tokenizer.encode(text)
    assert_equal_everywhere(theirs, directory, tokens)
