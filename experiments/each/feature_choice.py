"""Feature Choice beside gated autoencoders, on the language model that ships with gsae.

    python -m gsae.main --config=experiments/each/feature_choice.py

What it is, and its options: docs/architectures/feature_choice.md.
Trials (`experiments/architectures.py:tuning`): L0 / loss recovered, and the share of features alive.

    rate    k = 4                     k = 10
    1e-3    3.47 / .881 (98 %)        9.43 / .955 (100 %)
    2e-3    3.46 / .889 (97 %)        9.46 / .956 (100 %)
    4e-3    3.43 / .889 (97 %)        9.44 / .956 (99 %)
    8e-3    3.5 / .892 (93 %)         9.2 / .948 (91 %)
"""

from ml_collections import ConfigDict

from experiments import architectures


def get_config() -> ConfigDict:
    """The front door's settings with four points of this kind, all their options given, instead of standard ones."""
    return architectures.beside_gated(
        "feature_choice",
        coefficients=architectures.SELECTED,  # k, on average
        learning_rate=2e-3,
        **architectures.ZIPF,
        mutual_choice_share=0.5,  # of the run, from its start, by Mutual Choice; ours
    )
