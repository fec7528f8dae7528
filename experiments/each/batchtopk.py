"""BatchTopK beside gated autoencoders, on the language model that ships with gsae.

    python -m gsae.main --config=experiments/each/batchtopk.py

What it is, and its options: docs/architectures/batchtopk.md.
Trials (`experiments/architectures.py:tuning`): L0 / loss recovered, and the share of features alive.

    rate    k = 4                     k = 10
    1e-3    4.19 / .913 (97 %)        10.5 / .969 (97 %)
    2e-3    4.23 / .922 (98 %)        10.4 / .973 (93 %)
    4e-3    4.24 / .926 (83 %)        10.4 / .974 (82 %)
    8e-3    4.23 / .924 (69 %)        10.4 / .975 (72 %)

4e-3 leaves 2 % more of the loss at equal L0 than 8e-3 and keeps more features.
"""

from ml_collections import ConfigDict

from experiments import architectures


def get_config() -> ConfigDict:
    """The front door's settings with four points of this kind, all their options given, instead of standard ones."""
    return architectures.beside_gated(
        "batchtopk",
        coefficients=architectures.SELECTED,  # k, on average
        learning_rate=4e-3,
        **architectures.SELECTING,
    )
