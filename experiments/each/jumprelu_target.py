"""JumpReLU with a target beside gated autoencoders, on the language model that ships with gsae.

    python -m gsae.main --config=experiments/each/jumprelu_target.py

What it is, and its options: docs/architectures/jumprelu_target.md.
"""

from ml_collections import ConfigDict

from experiments import architectures


def get_entry() -> ConfigDict:
    """Four points, with all their options."""
    return architectures.entry(
        "jumprelu_target",
        coefficients=architectures.SELECTED,  # the target L0
        learning_rate=4e-3,
        log_threshold=True,  # train log theta; False: theta itself
        initial_threshold=0.01,  # as in jumprelu.py
        bandwidth=0.1,  # the same
        penalty=1.0,  # weight of (L0 / target - 1)^2, dictionary_learning's
        penalty_warmup=0.1,  # share of the run over which it rises, ours
    )


def get_config() -> ConfigDict:
    """The front door's settings with these points instead of standard ones."""
    return architectures.beside_gated(get_entry())
