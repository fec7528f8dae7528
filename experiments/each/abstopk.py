"""AbsTopK beside gated autoencoders, on the language model that ships with gsae.

    python -m gsae.main --config=experiments/each/abstopk.py

What it is, and its options: docs/architectures/abstopk.md.
Trials (`experiments/architectures.py:tuning`): L0 / loss recovered, and the share of features alive.

    rate    k = 4                     k = 10
    1e-3    4 / .897 (75 %)           10 / .956 (98 %)
    2e-3    4 / .902 (98 %)           10 / .955 (96 %)
    4e-3    4 / .897 (95 %)           10 / .956 (91 %)
    8e-3    4 / .887 (90 %)           10 / .951 (78 %)
"""

from ml_collections import ConfigDict

from experiments import architectures


def get_config() -> ConfigDict:
    """The front door's settings with four points of this kind, all their options given, instead of standard ones."""
    return architectures.beside_gated(
        "abstopk",
        coefficients=architectures.SELECTED,  # k
        learning_rate=2e-3,
        **architectures.SELECTING,
    )
