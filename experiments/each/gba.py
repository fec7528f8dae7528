"""Group Bias Adaptation beside gated autoencoders, on the language model that ships with gsae.

    python -m gsae.main --config=experiments/each/gba.py

What it is, and its options: docs/architectures/gba.md.
"""

from ml_collections import ConfigDict

from experiments import architectures


def get_entry() -> ConfigDict:
    """Four points, with all their options."""
    return architectures.entry(
        "gba",
        coefficients=architectures.SELECTED,  # the sum of the features' target frequencies
        learning_rate=4e-3,
        groups=10,  # with a target each
        frequency_span=100.0,  # the first group's target over the last one's
        every=50,  # updates between two moves of the biases
        step_down=0.01,  # share of the largest pre-activation
        step_up=0.01,  # the same, of the group's mean
        silent=1e-6,  # share of rows below which a feature is silent
        least_bias=-1.0,  # where biases stop
        jump=False,  # pass on what fires without the bias
    )


def get_config() -> ConfigDict:
    """The front door's settings with these points instead of standard ones."""
    return architectures.beside_gated(get_entry())
