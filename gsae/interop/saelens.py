"""SAELens' directories, version 6: `cfg.json` and `sae_weights.safetensors`. Without torch.

What `SAE.load_from_disk` reads and `save_model` writes, of the architectures that are also ours.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy

from gsae import artifacts
from gsae.autoencoders.abstopk import AbsTopK
from gsae.autoencoders.base import Autoencoder, Options
from gsae.autoencoders.batchtopk import BatchTopK
from gsae.autoencoders.gated import Gated, GatedOptions
from gsae.autoencoders.jumprelu import JumpReLU, JumpReLUOptions
from gsae.autoencoders.rescaled import RescaledStandard
from gsae.autoencoders.standard import Standard
from gsae.autoencoders.topk import TopK
from gsae.errors import RunError, SettingError
from gsae.interop.conversion import Arrays, arrays64, as_jumprelu, build, has_unit_norm_decoder

CONFIG = "cfg.json"
WEIGHTS = "sae_weights.safetensors"
SCALER = "activation_scaler.json"  # of a training checkpoint
FILES = (CONFIG, WEIGHTS, SCALER)
VERSION = "6.54.12"  # of the format that is written; readers convert what says it is older than 6
ARRAYS: dict[
    str, tuple[type[Any], tuple[str, ...]]
] = {  # their architectures that are also ours, and the arrays of each
    "gated": (Gated, ("W_enc", "W_dec", "b_gate", "b_mag", "r_mag", "b_dec")),
    "standard": (Standard, ("W_enc", "W_dec", "b_enc", "b_dec")),
    "jumprelu": (JumpReLU, ("W_enc", "W_dec", "b_enc", "b_dec", "threshold")),
    "topk": (TopK, ("W_enc", "W_dec", "b_enc", "b_dec")),
    "abstopk": (AbsTopK, ("W_enc", "W_dec", "b_enc", "b_dec")),
}
K = "k"  # of those that keep the k largest: no array there, but in the configuration
HOOKS = {  # our sites, and what follows "blocks.<layer>." in TransformerLens' names
    "resid_pre": "hook_resid_pre",
    "resid_mid": "hook_resid_mid",
    "resid_post": "hook_resid_post",
    "attn_z": "attn.hook_z",
    "attn_out": "hook_attn_out",
    "mlp_act": "mlp.hook_post",
    "mlp_out": "hook_mlp_out",
}


def is_here(path: Path) -> bool:
    """Whether a directory looks like one of SAELens'."""
    return (path / CONFIG).is_file() and (path / WEIGHTS).is_file()


def write(autoencoder: Autoencoder, path: Path) -> None:
    """Writes the files into an empty directory.

    Raises:
        SettingError: for an untied gated autoencoder (SAELens has no W_mag) and other architectures than `ARRAYS` has.
    """
    if isinstance(autoencoder, BatchTopK):  # so SAELens itself keeps its own, once they are trained
        autoencoder = as_jumprelu(autoencoder)
    architecture = next((name for name, (cls, _) in ARRAYS.items() if type(autoencoder) is cls), None)
    if architecture is None:
        reason = f"a {type(autoencoder).__name__} is not written in it; what is: {', '.join(ARRAYS)}"
        if isinstance(autoencoder, RescaledStandard):
            reason += "; it is a gated one in other words: convert it with as = 'gated'"
        raise SettingError("format", "saelens", reason)
    names, arrays = ARRAYS[architecture][1], arrays64(autoencoder)
    if "W_mag" in arrays:
        raise SettingError("format", "saelens", "has no place for the W_mag of an untied gated autoencoder")
    if isinstance(autoencoder, Gated):
        arrays.setdefault("r_mag", np.zeros_like(arrays["b_mag"]))
    if isinstance(autoencoder, JumpReLU):
        arrays["threshold"] = np.maximum(np.asarray(autoencoder.theta, np.float64), 0)
    made = {name: np.ascontiguousarray(arrays[name], np.float32) for name in names}
    artifacts.write_file(path / WEIGHTS, safetensors.numpy.save(made))
    metadata = _their_metadata(autoencoder, architecture)
    config = {
        "d_sae": made["W_dec"].shape[0],
        "normalize_activations": "none",
        "apply_b_dec_to_input": not isinstance(autoencoder, JumpReLU),
        "dtype": "float32",
        # the heads of attn_z are an axis of their own in TransformerLens
        "reshape_activations": "hook_z" if str(metadata.get("hook_name", "")).endswith("hook_z") else "none",
        "device": "cpu",
        "metadata": metadata,
        "d_in": made["W_enc"].shape[0],
        "architecture": architecture,
    }
    if K in arrays:
        config |= {K: round(float(arrays[K])), "rescale_acts_by_decoder_norm": False}
    artifacts.write_file(path / CONFIG, json.dumps(config))


def _their_metadata(autoencoder: Autoencoder, architecture: str) -> dict[str, Any]:
    about = autoencoder.metadata
    metadata: dict[str, Any] = {
        "sae_lens_version": VERSION,
        "sae_lens_training_version": None,
        "training_architecture": architecture,
        "gsae": dict(about),
    }
    model = about.get("language_model")
    if model:
        metadata["model_name"] = str(model).rpartition("/")[2]
    if about.get("site") in HOOKS and about.get("layer") is not None:
        metadata["hook_name"] = f"blocks.{about['layer']}.{HOOKS[about['site']]}"
    if about.get("context_length"):
        metadata["context_size"] = about["context_length"]
    return metadata


def read(path: Path) -> Autoencoder:
    """The autoencoder in a directory, on raw activations: input normalisation, where it is a number, is folded.

    Raises:
        RunError: saying what of it cannot be represented here, or is missing.
    """
    try:
        config = json.loads((path / CONFIG).read_text())
        arrays: Arrays = safetensors.numpy.load_file(path / WEIGHTS)
    except Exception as error:  # safetensors raises classes of its own
        raise RunError(f"{path}: cannot be read ({error})") from error
    if not isinstance(config, dict):
        raise RunError(f"{path / CONFIG}: must hold an object")
    architecture = config.get("architecture", "standard")
    _refuse_unknown(path, config, architecture)
    cls, names = ARRAYS[architecture]
    if "log_threshold" in arrays and "threshold" in names:  # as training checkpoints before 6.48 have it
        arrays["threshold"] = np.exp(np.asarray(arrays.pop("log_threshold"), np.float64))
    if arrays.keys() != set(names):
        raise RunError(f"{path / WEIGHTS}: holds {', '.join(sorted(arrays))}; {architecture} has {', '.join(names)}")
    arrays = {name: np.asarray(array, np.float64) for name, array in arrays.items()}
    _fold_scale(path, config, arrays)
    _fold_centring(bool(config.get("apply_b_dec_to_input", True)), arrays, centred=cls is not JumpReLU)
    options: Any
    if cls is JumpReLU:
        arrays["threshold"] = np.maximum(arrays["threshold"], 0)  # their ReLU comes with the jump
        options = JumpReLUOptions(log_threshold=False)
    elif issubclass(cls, TopK):
        options = cls.Options()
        arrays[K] = _features_kept(path, config)
        if config.get("rescale_acts_by_decoder_norm"):
            _fold_norms(path, arrays)
    else:
        free = not has_unit_norm_decoder(arrays["W_dec"])
        options = GatedOptions(ri_l1=free) if cls is Gated else Options(ri_l1=free)
    return build(cls, options, arrays, path / WEIGHTS).with_metadata(_our_metadata(config))


def _refuse_unknown(path: Path, config: Mapping[str, Any], architecture: str) -> None:
    file = path / CONFIG
    if architecture not in ARRAYS:
        raise RunError(f"{file}: architecture {architecture!r}; what can be read is {', '.join(ARRAYS)}")
    for key, usual in (("activation_fn", "relu"), ("activation_fn_str", "relu"), ("finetuning_scaling_factor", False)):
        if config.get(key, usual) not in (usual, None):
            raise RunError(f"{file}: {key} = {config[key]!r} is nothing that can be represented here, only {usual!r}")
    normalisation = config.get("normalize_activations", "none")
    if normalisation not in ("none", None, False, "expected_average_only_in"):
        reason = "depends on each activation" if normalisation in ("layer_norm", "constant_norm_rescale") else "unknown"
        raise RunError(f"{file}: normalize_activations = {normalisation!r} cannot be folded into weights ({reason})")


def _features_kept(path: Path, config: Mapping[str, Any]) -> np.ndarray:
    k = config.get(K)
    if not isinstance(k, int) or isinstance(k, bool) or k < 1:
        raise RunError(f"{path / CONFIG}: k = {k!r} must be a whole number from 1")
    return np.asarray(float(k))


def _fold_norms(path: Path, arrays: Arrays) -> None:
    """What they do with features whose decoder vectors are taken for unit vectors: pre-activations times the norms."""
    norms_F = np.linalg.norm(arrays["W_dec"], axis=1)
    if not np.all(norms_F > 0):
        raise RunError(
            f"{path / WEIGHTS}: W_dec has vectors of zeros, and rescale_acts_by_decoder_norm divides by norms"
        )
    arrays["W_dec"] = arrays["W_dec"] / norms_F[:, None]
    arrays["W_enc"] = arrays["W_enc"] * norms_F
    arrays["b_enc"] = arrays["b_enc"] * norms_F


def _fold_scale(path: Path, config: Mapping[str, Any], arrays: Arrays) -> None:
    """What SAELens does when training ends: the encoder multiplied, the decoder and its bias divided."""
    if config.get("normalize_activations") != "expected_average_only_in":
        return
    try:
        scale = float(json.loads((path / SCALER).read_text())["scaling_factor"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = f"normalize_activations = 'expected_average_only_in', and no {SCALER} says the scaling factor"
        raise RunError(f"{path / CONFIG}: {reason}") from error
    arrays["W_enc"] = arrays["W_enc"] * scale
    arrays["W_dec"] = arrays["W_dec"] / scale
    arrays["b_dec"] = arrays["b_dec"] / scale


def _fold_centring(theirs: bool, arrays: Arrays, centred: bool) -> None:
    """Moves b_dec W_enc between the encoder's input and its biases where they and we differ in it."""
    if theirs == centred:
        return
    shift_F = (1 if centred else -1) * (arrays["b_dec"] @ arrays["W_enc"])
    gain_F = np.exp(arrays["r_mag"]) if "r_mag" in arrays else 1.0
    for name, factor in (("b_enc", 1.0), ("b_gate", 1.0), ("b_mag", gain_F)):
        if name in arrays:
            arrays[name] = arrays[name] + shift_F * factor


def _our_metadata(config: Mapping[str, Any]) -> dict[str, Any]:
    theirs = config.get("metadata") or config  # flat before version 6
    if isinstance(theirs.get("gsae"), dict):
        return theirs["gsae"]
    found: dict[str, Any] = {"imported_from": "saelens"}
    for ours, key in (("language_model", "model_name"), ("context_length", "context_size"), ("hook", "hook_name")):
        if theirs.get(key) is not None:
            found[ours] = theirs[key]
    match = re.fullmatch(r"blocks\.(\d+)\.(.+)", str(found.get("hook", "")))
    sites = {hook: site for site, hook in HOOKS.items()}
    if match and match[2] in sites:
        found |= {"site": sites[match[2]], "layer": int(match[1])}
    return found
