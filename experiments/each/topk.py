"""TopK beside gated autoencoders, on the language model that ships with gsae.

    python -m gsae.main --config=experiments/each/topk.py

What it is, and its options: docs/architectures/topk.md.
Trials (`experiments/architectures.py:tuning`): L0 / loss recovered, and the share of features alive.

    rate    k = 4                     k = 10
    1e-3    4 / .917 (100 %)          10 / .961 (100 %)
    2e-3    4 / .919 (100 %)          10 / .963 (99 %)
    4e-3    4 / .916 (93 %)           10 / .968 (94 %)
    8e-3    4 / .910 (83 %)           10 / .966 (81 %)
"""

from ml_collections import ConfigDict

from experiments import architectures


def get_config() -> ConfigDict:
    """The front door's settings with four points of this kind, all their options given, instead of standard ones."""
    return architectures.beside_gated(
        "topk",
        coefficients=architectures.SELECTED,  # k
        learning_rate=4e-3,
        **architectures.SELECTING,
    )
