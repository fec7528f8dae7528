"""dictionary_learning's directories: `ae.pt` (a state dict, as torch saves it) and `config.json`. Needs torch.

What its `load_dictionary` reads and its `trainSAE` writes. Saved weights take raw activations: a `norm_factor` in the
configuration is folded into them already.
"""

import io
import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from gsae import artifacts
from gsae.autoencoders.abstopk import AbsTopK
from gsae.autoencoders.base import Autoencoder, Options
from gsae.autoencoders.batchtopk import BatchTopK
from gsae.autoencoders.gated import Gated, GatedOptions
from gsae.autoencoders.jumprelu import JumpReLU, JumpReLUOptions
from gsae.autoencoders.matryoshka import Matryoshka, MatryoshkaOptions
from gsae.autoencoders.rescaled import RescaledStandard
from gsae.autoencoders.standard import Standard
from gsae.autoencoders.topk import TopK
from gsae.errors import RunError, SettingError
from gsae.interop.conversion import Arrays, arrays64, build, has_unit_norm_decoder, with_unit_norm_decoder

CONFIG = "config.json"
WEIGHTS = "ae.pt"
FILES = (CONFIG, WEIGHTS)
SELECTS = {
    "W_enc": "encoder.weight",
    "W_dec": "decoder.weight",
    "b_enc": "encoder.bias",
    "b_dec": "b_dec",
    "k": "k",
}
CLASSES: dict[str, tuple[type[Any], dict[str, str]]] = {  # theirs: ours, and their names of our arrays
    "GatedAutoEncoder": (
        Gated,
        {
            "W_enc": "encoder.weight",
            "W_dec": "decoder.weight",
            "b_gate": "gate_bias",
            "b_mag": "mag_bias",
            "r_mag": "r_mag",
            "b_dec": "decoder_bias",
        },
    ),
    "AutoEncoder": (
        Standard,
        {"W_enc": "encoder.weight", "W_dec": "decoder.weight", "b_enc": "encoder.bias", "b_dec": "bias"},
    ),
    "AutoEncoderNew": (
        Standard,
        {"W_enc": "encoder.weight", "W_dec": "decoder.weight", "b_enc": "encoder.bias", "b_dec": "decoder.bias"},
    ),
    "JumpReluAutoEncoder": (
        JumpReLU,
        {name: name for name in ("W_enc", "W_dec", "b_enc", "b_dec", "threshold")},
    ),
    "AutoEncoderTopK": (TopK, SELECTS),
    "BatchTopKSAE": (BatchTopK, {**SELECTS, "threshold": "threshold"}),
    "MatryoshkaBatchTopKSAE": (
        Matryoshka,
        {name: name for name in ("W_enc", "W_dec", "b_enc", "b_dec", "k", "threshold")},
    ),
}
EXTRA = {"AutoEncoderTopK": "threshold", "MatryoshkaBatchTopKSAE": "group_sizes"}  # what is no array of ours
NORMALISED = "AutoEncoder"  # the class whose loader folds the norms of decoder vectors into the features
TRAINERS = {
    "GatedAutoEncoder": "GatedSAETrainer",
    "AutoEncoder": "StandardTrainer",
    "JumpReluAutoEncoder": "JumpReluTrainer",
    "AutoEncoderTopK": "TopKTrainer",
    "BatchTopKSAE": "BatchTopKTrainer",
    "MatryoshkaBatchTopKSAE": "MatryoshkaBatchTopKTrainer",
}


def is_here(path: Path) -> bool:
    """Whether a directory looks like one of dictionary_learning's."""
    return (path / WEIGHTS).is_file() and (path / CONFIG).is_file()


def _torch(path: Path) -> Any:
    if find_spec("torch") is None:
        needed = "needs torch to be read or written: pip install 'gsae[interop]'"
        raise SettingError("format", "dictionary_learning", f"{path.name} {needed}")
    import torch

    return torch


def write(autoencoder: Autoencoder, path: Path) -> None:
    """Writes the files into an empty directory.

    Raises:
        SettingError: when torch is missing; for an untied gated autoencoder, as the format has no W_mag; for a standard
            one with free decoder vectors.
    """
    torch = _torch(path / WEIGHTS)
    dict_class = next((name for name, (cls, _) in CLASSES.items() if type(autoencoder) is cls), None)
    if isinstance(autoencoder, AbsTopK):
        raise SettingError(
            "format", "dictionary_learning", "has no class whose features have both signs, as an AbsTopK's"
        )
    if dict_class is None:
        reason = f"a {type(autoencoder).__name__} is not written in it; what is: {', '.join(CLASSES)}"
        if isinstance(autoencoder, RescaledStandard):
            reason += "; it is a gated one in other words: convert it with as = 'gated'"
        raise SettingError("format", "dictionary_learning", reason)
    arrays = arrays64(autoencoder)
    if dict_class == NORMALISED and not has_unit_norm_decoder(arrays["W_dec"]):
        reason = "its loader rescales features to decoder vectors of norm one, and these are free (RI-L1); fold their "
        raise SettingError("format", "dictionary_learning", reason + "norms with unit_norm_decoder")
    if "W_mag" in arrays:
        raise SettingError("format", "dictionary_learning", "has no place for the W_mag of an untied gated autoencoder")
    if isinstance(autoencoder, Gated):
        arrays.setdefault("r_mag", np.zeros_like(arrays["b_mag"]))
    if isinstance(autoencoder, JumpReLU):
        arrays["threshold"] = np.maximum(np.asarray(autoencoder.theta, np.float64), 0)
    tensors = {}
    for ours, theirs in CLASSES[dict_class][1].items():
        array = arrays[ours].T if theirs.endswith(".weight") else arrays[ours]
        tensors[theirs] = torch.from_numpy(np.array(array, np.float32, order="C"))
    if isinstance(autoencoder, TopK):
        tensors["k"] = torch.tensor(round(float(arrays["k"])), dtype=torch.int)
    if isinstance(autoencoder, Matryoshka):
        tensors["group_sizes"] = torch.tensor(np.diff(autoencoder.prefixes, prepend=0))
    elif type(autoencoder) is TopK:
        tensors["threshold"] = torch.tensor(-1.0)  # theirs, of another way to encode: never set
    buffer = io.BytesIO()
    torch.save(tensors, buffer)
    artifacts.write_file(path / WEIGHTS, buffer.getvalue())
    artifacts.write_json(path / CONFIG, _config(autoencoder, dict_class))


def _config(autoencoder: Autoencoder, dict_class: str) -> dict[str, Any]:
    """Every key that a reader of theirs, or SAELens' loader of these files, asks for."""
    about = autoencoder.metadata
    features, activation_width = autoencoder.W_dec.shape
    site, layer = about.get("site"), about.get("layer")
    trainer = {
        "dict_class": dict_class,
        "trainer_class": TRAINERS[dict_class],
        "activation_dim": activation_width,
        "dict_size": features,
        "lr": about.get("learning_rate"),
        "l1_penalty": about.get("sparsity_coefficient"),
        "steps": about.get("steps"),
        "seed": about.get("seed"),
        "layer": layer,
        "lm_name": about.get("language_model") or "",
        "submodule_name": None if site is None or layer is None else f"{site}_layer_{layer}",
        "device": "cpu",
        "wandb_name": about.get("point") or TRAINERS[dict_class],
    }
    if isinstance(autoencoder, TopK):
        trainer["k"] = round(float(autoencoder.k))
    buffer = {
        "d_submodule": activation_width,
        "io": "out",
        "n_ctxs": None,
        "ctx_len": about.get("context_length"),
        "refresh_batch_size": None,
        "out_batch_size": None,
        "device": "cpu",
    }
    return {"trainer": trainer, "buffer": buffer, "gsae": dict(about)}


def read(path: Path) -> Autoencoder:
    """The autoencoder in a directory.

    Raises:
        RunError: saying what of it cannot be represented here, or is missing.
        SettingError: when torch is missing.
    """
    torch = _torch(path / WEIGHTS)
    try:
        config = json.loads((path / CONFIG).read_text())
        dict_class = config["trainer"]["dict_class"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(f"{path / CONFIG}: cannot be read, or has no trainer.dict_class ({error!r})") from error
    if dict_class not in CLASSES:
        raise RunError(f"{path / CONFIG}: dict_class {dict_class!r}; what can be read is {', '.join(CLASSES)}")
    try:
        tensors = torch.load(path / WEIGHTS, map_location="cpu", weights_only=True)  # no code of the file is run
        found = {name: tensor.detach().double().numpy() for name, tensor in tensors.items()}
    except Exception as error:  # pickle raises whatever the file makes it raise
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise RunError(f"{path / WEIGHTS}: is no state dict of torch tensors ({reason})") from error
    cls, names = CLASSES[dict_class]
    wanted = [*names.values(), *([EXTRA[dict_class]] if dict_class in EXTRA else [])]
    if found.keys() != set(wanted):
        raise RunError(f"{path / WEIGHTS}: holds {', '.join(sorted(found))}; {dict_class} has {', '.join(wanted)}")
    arrays: Arrays = {ours: found[name].T if name.endswith(".weight") else found[name] for ours, name in names.items()}
    options: Any
    if cls is JumpReLU:
        arrays["threshold"] = np.maximum(arrays["threshold"], 0)  # their ReLU comes with the jump
        options = JumpReLUOptions(log_threshold=False)
    elif cls is Matryoshka:
        sizes = found["group_sizes"]
        if sizes.ndim != 1 or np.any(sizes < 1) or sizes.sum() != len(arrays["b_enc"]):
            raise RunError(f"{path / WEIGHTS}: group_sizes {sizes.tolist()} do not add up to {len(arrays['b_enc'])}")
        options = MatryoshkaOptions(groups=tuple(sizes / sizes.sum()), blocks=1)  # as they lie: no mesh splits them
    elif issubclass(cls, TopK):
        options = cls.Options()
    else:
        free = not has_unit_norm_decoder(arrays["W_dec"])
        options = GatedOptions(ri_l1=free) if cls is Gated else Options(ri_l1=free)
    if dict_class == "AutoEncoderNew":  # does not subtract its decoder bias; ours does
        arrays["b_enc"] = arrays["b_enc"] + arrays["b_dec"] @ arrays["W_enc"]
    made = build(cls, options, arrays, path / WEIGHTS)
    if dict_class == NORMALISED and not has_unit_norm_decoder(arrays["W_dec"]):
        made = with_unit_norm_decoder(made).replace(options=Options())
    return made.with_metadata(_our_metadata(config))


def _our_metadata(config: dict[str, Any]) -> dict[str, Any]:
    if isinstance(config.get("gsae"), dict):
        return config["gsae"]
    trainer, buffer = config["trainer"], config.get("buffer") or {}
    found: dict[str, Any] = {"imported_from": "dictionary_learning"}
    for ours, key in (
        *(("language_model", "lm_name"), ("layer", "layer"), ("submodule", "submodule_name"), ("seed", "seed")),
        *(("learning_rate", "lr"), ("steps", "steps"), ("sparsity_coefficient", "l1_penalty")),
    ):
        if trainer.get(key) is not None:
            found[ours] = trainer[key]
    if buffer.get("ctx_len"):
        found["context_length"] = buffer["ctx_len"]
    site = str(found.get("submodule", "")).partition("_layer_")[0]
    if site in ("resid_post", "resid_pre", "resid_mid", "mlp_out", "attn_out"):  # as its own scripts name them
        found["site"] = site
    return found
