"""JumpReLU beside gated autoencoders, on the language model that ships with gsae.

    python -m gsae.main --config=experiments/each/jumprelu.py

What it is, and its options: docs/architectures/jumprelu.md.
Trials (`experiments/architectures.py:tuning`): L0 / loss recovered, and the share of features alive.

    rate    lambda = 0.01             lambda = 0.03
    1e-3    13 / .968 (90 %)          12.1 / .954 (82 %)
    2e-3    9.5 / .965 (91 %)         4.24 / .917 (84 %)
    4e-3    9.18 / .966 (96 %)        3.97 / .916 (94 %)
    8e-3    8.76 / .964 (96 %)        3.86 / .917 (92 %)

4e-3 leaves 2 % more of the loss at equal L0 than 8e-3 and keeps as many features or more.
"""

from ml_collections import ConfigDict

from experiments import architectures


def get_config() -> ConfigDict:
    """The front door's settings with four points of this kind, all their options given, instead of standard ones."""
    return architectures.beside_gated(
        "jumprelu",
        coefficients=(0.002, 0.01, 0.03, 0.1),  # of L0
        learning_rate=4e-3,
        log_threshold=True,  # train log theta; False: theta itself
        initial_threshold=0.01,  # ours; the paper's 0.001 hardly moves in so few tokens
        bandwidth=0.1,  # epsilon, ours; the paper's 0.001 is for a thousand times the tokens
    )
