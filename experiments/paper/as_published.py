"""What the Gated SAE paper's experiments share (Rajamanoharan et al. 2024, 2404.16014, appendices on training).

Its loss divides squared errors by the activation width, and on Pythia and Gemma those of the baselines by the mean
norm of the activations too, so that lambdas of the two kinds cannot be compared; activations are not scaled before.
Adam with beta1 = 0 and batch 4096, a shuffle buffer of 10^6 activations, constant learning rates. Dead features are
revived as in Bricken et al. 2023 (before steps 25k, 50k, 75k and 100k, those silent for 12,500 steps, from 819,200
inputs), after which the learning rate returns from a tenth along a cosine of 1000 steps; here a 32nd of the features at
most in one event, where they revive all that are silent.

The paper does not say which texts it took, how long the learning rate rises (1000 steps here), what the initial
weights are (ours: W_enc = W_dec^T, unit norm), or which tokens it leaves out (here the first position and special
tokens).
"""

from collections.abc import Mapping

from ml_collections import ConfigDict

from experiments.language_models.starting_point import BATCH, Text, starting_point

Sweep = Mapping[tuple[str, int, float], tuple[float, ...]]  # (kind, features, learning rate): lambdas of the tables
ARCHITECTURES = {"gated": "gated", "baseline": "standard"}


def as_published(
    model: str,
    site: str,
    text: Text,
    sweep: Sweep,
    *,
    context_length: int,
    steps: int,
    baseline_scale: str = "width_and_norm",
) -> ConfigDict:
    """The paper's sweep at one site of a model.

    Args:
        model: hub id.
        site: `name.layer`.
        text: what the model reads.
        sweep: the points.
        context_length: tokens a row of text.
        steps: updates of every point.
        baseline_scale: of the baselines' squared errors; the gated ones' are divided by the width.
    """
    width = max(features for kind, features, _ in sweep if kind == "gated")
    # Rounded up to whole superblocks, so that every row is new.
    rows = -(-steps * BATCH // (1 << 20)) * (1 << 20)
    config = starting_point(model, site, text, width=width, context_length=context_length, rows=rows)
    config.sae.normalisation = "none"
    config.training.steps = steps
    config.training.warmup, config.training.warmup_shape = "1000 steps", "linear"
    config.training.decay, config.training.sparsity_warmup = "constant", "0 steps"
    config.training.dead_window = f"{12_500 * BATCH} tokens"
    config.training.resampling.at = ("25_000 steps", "50_000 steps", "75_000 steps", "100_000 steps")
    entries = {kind: config.sweep[name].copy_and_resolve_references() for kind, name in ARCHITECTURES.items()}
    del config.sweep.gated, config.sweep.standard
    for (kind, features, learning_rate), coefficients in sweep.items():
        entry = entries[kind].copy_and_resolve_references()
        entry.width_factor = features / width
        entry.learning_rates, entry.sparsity_coefficients = (learning_rate,), coefficients
        entry.options.reconstruction_scale = "width" if kind == "gated" else baseline_scale
        config.sweep[f"{kind}_{features}_{learning_rate:g}".replace("-", "_").replace(".", "_")] = entry
    return config


def chosen(place: str, sweeps: Mapping[str, Sweep], file: str) -> Sweep:
    """The sweep at a place; ValueError, naming all, for any other."""
    if place not in sweeps:
        raise ValueError(f"{file}:{place}: must be one of {', '.join(sweeps)}")
    return sweeps[place]
