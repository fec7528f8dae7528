"""JumpReLU by the recipe of January 2025 beside gated autoencoders, on the language model that ships with gsae.

    python -m gsae.main --config=experiments/each/jumprelu_tanh.py

What it is, and its options: docs/architectures/jumprelu_tanh.md.
"""

from ml_collections import ConfigDict

from experiments import architectures


def get_entry() -> ConfigDict:
    """Four points, with all their options."""
    return architectures.entry(
        "jumprelu_tanh",
        coefficients=(2.0, 5.0, 10.0, 20.0),  # lambda_S; the update's is from 10 to 20
        learning_rate=4e-3,
        log_threshold=True,  # train log theta; False: theta itself
        initial_threshold=0.1,  # the update's
        bandwidth=2.0,  # epsilon, the update's
        tanh_scale=4.0,  # how steeply a feature's penalty saturates, the update's
        preactivation_coefficient=3e-6,  # lambda_P, the update's
        initial_l0=10_000.0,  # features a token at the start; at most a quarter of all
    )


def get_config() -> ConfigDict:
    """The front door's settings with these points instead of standard ones."""
    return architectures.beside_gated(get_entry())
