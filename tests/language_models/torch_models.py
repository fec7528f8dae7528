"""Small random models of transformers in torch: saved by themselves, their sites read by hooks."""

import numpy as np
from tokenizers import Tokenizer, models

from gsae.language_models.sites import Site


def randomise(model, seed=0):
    """Every parameter large enough to matter, norms and biases too: their initial values would hide errors."""
    import torch

    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.4 * torch.randn_like(parameter) / parameter.shape[-1] ** 0.5)
    return model


def save_random(directory, architecture, config, sharded=False, dtype=None):
    """A torch model of a configuration with random weights, and its directory."""
    import transformers

    config_class = getattr(transformers, architecture).config_class
    model = randomise(getattr(transformers, architecture)(config_class(**config, attn_implementation="eager")).eval())
    model = model if dtype is None else model.to(dtype)
    model.save_pretrained(directory, max_shard_size="20KB" if sharded else "5GB")
    Tokenizer(models.WordLevel({"a": 0, "b": 1}, unk_token="a")).save(str(directory / "tokenizer.json"))
    return model


# By family: the layers, the linear map that reads z, and the one that reads the neurons.
LAYERS = {
    "GPTNeoXForCausalLM": ("gpt_neox.layers", "attention.dense", "mlp.dense_4h_to_h"),
    "GPT2LMHeadModel": ("transformer.h", "attn.c_proj", "mlp.c_proj"),
    "GPTNeoForCausalLM": ("transformer.h", "attn.attention.out_proj", "mlp.c_proj"),
    "GPTJForCausalLM": ("transformer.h", "attn.out_proj", "mlp.fc_out"),
    "PhiForCausalLM": ("model.layers", "self_attn.dense", "mlp.fc2"),
    "Gemma3ForConditionalGeneration": ("model.language_model.layers", "self_attn.o_proj", "mlp.down_proj"),
}
# Where what is added to the stream is normalised first.
NORMED = ("Gemma2ForCausalLM", "Gemma3ForCausalLM", "Gemma3ForConditionalGeneration", "Olmo2ForCausalLM")
POST_NORMS = ("post_attention_layernorm", "post_feedforward_layernorm")


def torch_sites(model, tokens, mask=None, positions=None):
    """Logits, and every site by hooks on the modules."""
    import torch

    name = type(model).__name__
    layers, out, down = LAYERS.get(name, ("model.layers", "self_attn.o_proj", "mlp.down_proj"))
    attention_out, mlp_out = POST_NORMS if name in NORMED else (out, down)
    found, handles = {}, []

    def hook(module, site, before=False):
        def keep(_, inputs, output=None):
            value = (inputs if before else output) if before or not isinstance(output, tuple) else output
            found[site] = (value[0] if isinstance(value, tuple) else value).detach().float().numpy()

        register = module.register_forward_pre_hook if before else module.register_forward_hook
        handles.append(register(keep))

    stack = model.get_submodule(layers)
    for i, layer in enumerate(stack):
        hook(layer, Site(i, "resid_pre"), before=True)
        hook(layer, Site(i, "resid_post"))
        hook(layer.get_submodule(out), Site(i, "attn_z"), before=True)
        hook(layer.get_submodule(attention_out), Site(i, "attn_out"))
        hook(layer.get_submodule(down), Site(i, "mlp_act"), before=True)
        hook(layer.get_submodule(mlp_out), Site(i, "mlp_out"))
    arguments = {"input_ids": torch.from_numpy(tokens), "use_cache": False}
    if mask is not None:
        arguments["attention_mask"] = torch.from_numpy(mask.astype(np.int64))
    if positions is not None:
        arguments["position_ids"] = torch.from_numpy(positions)
    with torch.no_grad():
        logits = model(**arguments).logits.float().numpy()
    for handle in handles:
        handle.remove()
    for i in range(len(stack)):
        found[Site(i, "resid_mid")] = found[Site(i, "resid_pre")] + found[Site(i, "attn_out")]
    return logits, found
