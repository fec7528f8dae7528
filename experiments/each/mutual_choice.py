"""Mutual Choice beside gated autoencoders, on the language model that ships with gsae.

    python -m gsae.main --config=experiments/each/mutual_choice.py

What it is, and its options: docs/architectures/mutual_choice.md.
Trials (`experiments/architectures.py:tuning`): L0 / loss recovered, and the share of features alive.

    rate    k = 4                     k = 10
    1e-3    4.24 / .913 (90 %)        10.3 / .966 (100 %)
    2e-3    4.27 / .912 (99 %)        10.4 / .971 (99 %)
    4e-3    4.24 / .919 (98 %)        10.4 / .971 (97 %)
    8e-3    4.24 / .923 (86 %)        10.6 / .956 (80 %)
"""

from ml_collections import ConfigDict

from experiments import architectures


def get_config() -> ConfigDict:
    """The front door's settings with four points of this kind, all their options given, instead of standard ones."""
    return architectures.beside_gated(
        "mutual_choice",
        coefficients=architectures.SELECTED,  # k, on average
        learning_rate=4e-3,
        **architectures.ZIPF,
    )
