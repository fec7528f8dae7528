"""P-annealed beside gated autoencoders, on the language model that ships with gsae.

    python -m gsae.main --config=experiments/each/p_anneal.py

What it is, and its options: docs/architectures/p_anneal.md.
Trials (`experiments/architectures.py:tuning`): L0 / loss recovered, and the share of features alive.

    rate    lambda = 0.14             lambda = 0.3
    1e-3    9.31 / .935 (99 %)        3.91 / .870 (92 %)
    2e-3    7.87 / .929 (100 %)       3.27 / .862 (97 %)
    4e-3    6.44 / .918 (99 %)        2.67 / .852 (97 %)
    8e-3    5.28 / .911 (99 %)        2.17 / .835 (96 %)
"""

from ml_collections import ConfigDict

from experiments import architectures


def get_config() -> ConfigDict:
    """The front door's settings with four points of this kind, all their options given, instead of standard ones."""
    return architectures.beside_gated(
        "p_anneal",
        coefficients=(0.035, 0.14, 0.3, 0.6),  # as the standard one
        learning_rate=8e-3,
        ri_l1=False,  # weigh the penalty by decoder norms instead of holding them at one
        anneal_start=0.5,  # share of the run after which p falls, ours
        p_end=0.0,  # what p would be at the very end
        anneal_updates=10,  # values of p
        anneal_queue=10,  # batches over which two penalties are compared
        anneal_epsilon=1e-4,  # added to f inside the power, ours
    )
