"""Variational beside gated autoencoders, on the language model that ships with gsae.

    python -m gsae.main --config=experiments/each/variational.py

What it is, and its options: docs/architectures/variational.md.
"""

from ml_collections import ConfigDict

from experiments import architectures


def get_entry() -> ConfigDict:
    """Four points, with all their options."""
    return architectures.entry(
        "variational",
        coefficients=architectures.SELECTED,  # k
        learning_rate=4e-3,
        auxiliary_k=0,  # dead features that reconstruct what is left; 0: half the activation's width
        auxiliary_coefficient=1 / 32,  # weight of that loss
        geometric_median=True,  # where b_dec begins
        sample=True,  # False: TopK with an L2 penalty
        learned_variance=False,  # a second encoder gives log sigma^2
        log_variance=-6.0,  # the authors' -2 drowns inputs of unit norm
        select_on_mean=False,  # noise decides which features fire, too
        kl_coefficient=1e-4,  # beta, ours
        kl_warm_up=0.1,  # share of the run over which it rises
    )


def get_config() -> ConfigDict:
    """The front door's settings with these points instead of standard ones."""
    return architectures.beside_gated(get_entry())
