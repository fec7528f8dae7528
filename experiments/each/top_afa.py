"""Top-AFA beside gated autoencoders, on the language model that ships with gsae.

    python -m gsae.main --config=experiments/each/top_afa.py

What it is, and its options: docs/architectures/top_afa.md.
Trials (`experiments/architectures.py:tuning`): L0 / loss recovered, and the share of features alive.

    rate    lambda = 2                lambda = 4
    1e-3    31 / .966 (75 %)          21.9 / .956 (65 %)
    2e-3    33.6 / .972 (72 %)        17.3 / .947 (64 %)
    4e-3    52.7 / .993 (90 %)        45 / .991 (73 %)
    8e-3    46.4 / .993 (89 %)        36.1 / .990 (89 %)

Also tried: lambda 16, 13.9 / .936 (36 %) at 4e-3 and 14.4 / .951 (40 %) at 8e-3; 64, 15.1 / .960 (65 %)
and 15.2 / .965 (47 %). L0 does not fall below 14.
"""

from ml_collections import ConfigDict

from experiments import architectures


def get_config() -> ConfigDict:
    """The front door's settings with four points of this kind, all their options given, instead of standard ones."""
    return architectures.beside_gated(
        "top_afa",
        coefficients=(2.0, 4.0, 16.0, 64.0),  # weights of the norm loss; L0 is what it is
        learning_rate=8e-3,
        **architectures.AUXILIARY,
    )
