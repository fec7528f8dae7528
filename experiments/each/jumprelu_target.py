"""JumpReLU with a target beside gated autoencoders, on the language model that ships with gsae.

    python -m gsae.main --config=experiments/each/jumprelu_target.py

What it is, and its options: docs/architectures/jumprelu_target.md.
Trials (`experiments/architectures.py:tuning`): L0 / loss recovered, and the share of features alive.

    rate    target = 4                target = 10
    1e-3    5.01 / .909 (98 %)        10.9 / .973 (96 %)
    2e-3    4.48 / .897 (55 %)        10.9 / .966 (89 %)
    4e-3    4.48 / .916 (55 %)        10.8 / .977 (88 %)
    8e-3    4.5 / .926 (60 %)         10.8 / .969 (90 %)
"""

from ml_collections import ConfigDict

from experiments import architectures


def get_config() -> ConfigDict:
    """The front door's settings with four points of this kind, all their options given, instead of standard ones."""
    return architectures.beside_gated(
        "jumprelu_target",
        coefficients=architectures.SELECTED,  # the target L0
        learning_rate=4e-3,
        log_threshold=True,  # train log theta; False: theta itself
        initial_threshold=0.01,  # as in jumprelu.py
        bandwidth=0.1,  # the same
        penalty=1.0,  # weight of (L0 / target - 1)^2, dictionary_learning's
        penalty_warmup=0.1,  # share of the run over which it rises, ours
    )
