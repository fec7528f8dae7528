"""JumpReLU beside gated autoencoders, on the language model that ships with gsae.

    python -m gsae.main --config=experiments/each/jumprelu.py

What it is, and its options: docs/architectures/jumprelu.md.
"""

from ml_collections import ConfigDict

from experiments import architectures


def get_entry() -> ConfigDict:
    """Four points, with all their options."""
    return architectures.entry(
        "jumprelu",
        coefficients=(0.002, 0.01, 0.03, 0.1),  # of L0
        learning_rate=4e-3,
        log_threshold=True,  # train log theta; False: theta itself
        initial_threshold=0.01,  # ours; the paper's 0.001 hardly moves in so few tokens
        bandwidth=0.1,  # epsilon, ours; the paper's 0.001 is for a thousand times the tokens
    )


def get_config() -> ConfigDict:
    """The front door's settings with these points instead of standard ones."""
    return architectures.beside_gated(get_entry())
