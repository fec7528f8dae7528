"""Normalised beside gated autoencoders, on the language model that ships with gsae.

    python -m gsae.main --config=experiments/each/normalized.py

What it is, and its options: docs/architectures/normalized.md.
"""

from ml_collections import ConfigDict

from experiments import architectures


def get_entry() -> ConfigDict:
    """Four points, with all their options."""
    return architectures.entry(
        "normalized",
        coefficients=(0.001, 0.004, 0.015, 0.06),  # alpha
        learning_rate=4e-3,
        noise=0.3,  # standard deviation before tanh(ReLU(.)), in training only; ours
        norm_power=2,  # of the mean norm in beta
        decoder_bias=False,  # train b_dec
    )


def get_config() -> ConfigDict:
    """The front door's settings with these points instead of standard ones."""
    return architectures.beside_gated(get_entry())
