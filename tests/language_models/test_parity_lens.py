"""Models in TransformerLens' format against HookedTransformer itself, from safetensors and from a `.pth`."""

import json

import numpy as np
import pytest
from safetensors.numpy import save_file
from test_parity_families import assert_equal, our_sites
from tokenizers import Tokenizer, models
from torch_models import randomise

from gsae.language_models.loading import load_language_model
from gsae.language_models.sites import Site

pytestmark = pytest.mark.parity

GELU = {
    "d_model": 40,
    "n_layers": 2,
    "d_mlp": 70,
    "d_head": 6,
    "n_heads": 5,
    "n_ctx": 32,
    "d_vocab": 97,
    "act_fn": "gelu",
}
CONFIGURATIONS = {
    "gelu-1l": GELU | {"n_layers": 1, "normalization_type": "LN"},
    "gelu-folded": GELU | {"normalization_type": "LNPre", "act_fn": "gelu_new"},
    "solu": GELU | {"normalization_type": "LN", "act_fn": "solu_ln"},
    "attention-only": GELU | {"normalization_type": "LN", "attn_only": True, "eps": 1e-3},
}
HOOKS = {
    "resid_pre": "hook_resid_pre", "resid_mid": "hook_resid_mid", "resid_post": "hook_resid_post",
    "attn_z": "attn.hook_z", "attn_out": "hook_attn_out", "mlp_act": "mlp.hook_post", "mlp_out": "hook_mlp_out",
}  # fmt: skip


def save(directory, config, pickled):
    """A random HookedTransformer, and its directory in the style of the hub's NeelNanda models."""
    import torch
    from transformer_lens import HookedTransformer, HookedTransformerConfig

    model = randomise(HookedTransformer(HookedTransformerConfig(**config, seed=0, device="cpu")).eval())
    described = {key: value for key, value in config.items() if key not in ("eps", "normalization_type")}
    described |= {"normalization": config["normalization_type"], "ln_eps": config.get("eps", 1e-5)}
    (directory / "config.json").write_text(json.dumps({"attn_only": False, "shortformer_pos": False} | described))
    Tokenizer(models.WordLevel({"a": 0, "b": 1}, unk_token="a")).save(str(directory / "tokenizer.json"))
    if pickled:
        torch.save(model.state_dict(), directory / "model_final.pth")
    else:
        numbers = {name: tensor.numpy() for name, tensor in model.state_dict().items() if tensor.dim()}
        save_file(numbers, directory / "model.safetensors")
    return model


@pytest.mark.parametrize("pickled", [False, True], ids=["safetensors", "pth"])
@pytest.mark.parametrize("config", CONFIGURATIONS.values(), ids=CONFIGURATIONS)
def test_logits_and_sites_equal_the_hooked_transformer(tmp_path, config, pickled):
    import torch

    theirs = save(tmp_path, config, pickled)
    tokens = np.random.default_rng(0).integers(0, 97, (3, 29))
    logits, cache = theirs.run_with_cache(torch.from_numpy(tokens))
    settings = load_language_model(str(tmp_path)).settings
    ours = our_sites(tmp_path, tokens)
    expected = {}
    for site in ours[1]:
        hook = f"blocks.{site.layer}.{HOOKS[site.name]}"
        # A layer without MLP has no point in the middle: there it is what leaves the layer.
        hook = hook if hook in cache else f"blocks.{site.layer}.{HOOKS['resid_post']}"
        expected[site] = cache[hook].numpy().reshape(*tokens.shape, -1)
    assert (settings.mlp is None) == (Site(0, "mlp_out") not in expected)
    assert_equal(ours, (logits.detach().numpy(), expected))
