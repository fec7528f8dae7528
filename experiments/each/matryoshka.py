"""Matryoshka BatchTopK beside gated autoencoders, on the language model that ships with gsae.

    python -m gsae.main --config=experiments/each/matryoshka.py

What it is, and its options: docs/architectures/matryoshka.md.
Trials (`experiments/architectures.py:tuning`): L0 / loss recovered, and the share of features alive.

    rate    k = 4                     k = 10
    1e-3    4.23 / .909 (94 %)        10.4 / .966 (96 %)
    2e-3    4.26 / .912 (95 %)        10.4 / .966 (93 %)
    4e-3    4.23 / .911 (87 %)        10.4 / .965 (72 %)
    8e-3    4.24 / .907 (68 %)        10.5 / .964 (55 %)
"""

from ml_collections import ConfigDict

from experiments import architectures


def get_config() -> ConfigDict:
    """The front door's settings with four points of this kind, all their options given, instead of standard ones."""
    return architectures.beside_gated(
        "matryoshka",
        coefficients=architectures.SELECTED,  # k, on average
        learning_rate=2e-3,
        **architectures.SELECTING,
        groups=(1 / 32, 1 / 16, 1 / 8, 1 / 4, 17 / 32),  # shares that each prefix adds
        blocks=8,  # in which features are stored; config.mesh.feature must divide them
    )
