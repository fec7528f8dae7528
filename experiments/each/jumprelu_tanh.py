"""JumpReLU by the recipe of January 2025 beside gated autoencoders, on the language model that ships with gsae.

    python -m gsae.main --config=experiments/each/jumprelu_tanh.py

What it is, and its options: docs/architectures/jumprelu_tanh.md.
Trials (`experiments/architectures.py:tuning`): L0 / loss recovered, and the share of features alive.

    rate    lambda_S = 5              lambda_S = 10
    1e-3    0.521 / .453 (32 %)       0.299 / .266 (9 %)
    2e-3    0.33 / .336 (33 %)        0.0805 / .059 (2 %)
    4e-3    0.339 / .350 (41 %)       0.00334 / .000 (0 %)
    8e-3    0.414 / .433 (43 %)       0 / -0.005 (0 %)

The update's lambda_S of 10 to 20 leave next to nothing of a dictionary of 384 features. A
second trial:

    rate    lambda_S = 0.1          lambda_S = 0.3          lambda_S = 1            lambda_S = 2
    2e-3    39.8 / .993 (74 %)      17.7 / .982 (67 %)      3.98 / .913 (69 %)      1.45 / .793 (68 %)
    8e-3    29.7 / .991 (100 %)     12.9 / .971 (99 %)      3.69 / .911 (96 %)      1.56 / .831 (89 %)
"""

from ml_collections import ConfigDict

from experiments import architectures


def get_config() -> ConfigDict:
    """The front door's settings with four points of this kind, all their options given, instead of standard ones."""
    return architectures.beside_gated(
        "jumprelu_tanh",
        coefficients=(0.1, 0.3, 1.0, 2.0),  # lambda_S; the update's 10 to 20 leave next to nothing here
        learning_rate=8e-3,
        log_threshold=True,  # train log theta; False: theta itself
        initial_threshold=0.1,  # the update's
        bandwidth=2.0,  # epsilon, the update's
        tanh_scale=4.0,  # how steeply a feature's penalty saturates, the update's
        preactivation_coefficient=3e-6,  # lambda_P, the update's
        initial_l0=10_000.0,  # features a token at the start; at most a quarter of all
    )
