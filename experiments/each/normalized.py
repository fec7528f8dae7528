"""Normalised beside gated autoencoders, on the language model that ships with gsae.

    python -m gsae.main --config=experiments/each/normalized.py

What it is, and its options: docs/architectures/normalized.md.
Trials (`experiments/architectures.py:tuning`): L0 / loss recovered, and the share of features alive.

    rate    alpha = 0.004             alpha = 0.015
    1e-3    34.4 / .971 (100 %)       12.6 / .939 (100 %)
    2e-3    29.2 / .973 (100 %)       11.5 / .950 (100 %)
    4e-3    24.2 / .972 (100 %)       10.6 / .957 (100 %)
    8e-3    20.3 / .966 (100 %)       9.88 / .952 (99 %)

Also tried at 4e-3: alpha 0.03, 6.65 / .929 (95 %), and 0.1, 2.82 / .839 (46 %); `noise=0.1`,
19.3 / .974 (100 %) at 0.015 and 12.5 / .958 (100 %) at 0.03.
"""

from ml_collections import ConfigDict

from experiments import architectures


def get_config() -> ConfigDict:
    """The front door's settings with four points of this kind, all their options given, instead of standard ones."""
    return architectures.beside_gated(
        "normalized",
        coefficients=(0.004, 0.015, 0.03, 0.06),  # alpha
        learning_rate=4e-3,
        noise=0.3,  # standard deviation before tanh(ReLU(.)), in training only; ours
        norm_power=2,  # of the mean norm in beta
        decoder_bias=False,  # train b_dec
    )
