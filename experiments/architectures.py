"""Every architecture on one frontier, on the language model that ships with gsae.

    python -m gsae.main --config=experiments/architectures.py             # seed 0
    python -m gsae.main --config=experiments/architectures.py:seeds       # seeds 0, 1 and 2, with bands
    python -m gsae.main --config=experiments/architectures.py:tuning      # learning rates, on tokens of their own

The front door's text, site and rows, and half of its steps; gated and standard as tuned there. The others stand at the
front door's learning rate and at coefficients that were not tuned: a starting point, not a comparison to be quoted.
`tuning` has not been run. Where k features are selected, k stands in the place of the
sparsity coefficient; so does the target of jumprelu_target. The options are explained in docs/architectures/.
"""

from collections.abc import Sequence
from typing import Any

from ml_collections import ConfigDict

from experiments import pareto_sweep

SELECTED = (2, 4, 10, 40)  # k or the target L0, features a token
PARTS = ("", "seeds", "tuning")
TRIED = (1e-3, 2e-3, 4e-3, 8e-3)  # learning rates
TRIAL_SEED = 100

COMMON = {"reconstruction_scale": "sum", "decoder_transpose_init": True}
AUXILIARY = {"auxiliary_k": 0, "auxiliary_coefficient": 1 / 32, "geometric_median": True}
SELECT = AUXILIARY | {"multi_coefficient": 0.0}
ZIPF = {"zipf_exponent": 1.0, "zipf_shift": 10.0}
JUMPRELU = {"log_threshold": True, "initial_threshold": 0.01, "bandwidth": 0.1}
# name: coefficients, its own options
OTHERS: dict[str, tuple[Sequence[float], dict[str, Any]]] = {
    "jumprelu": ((0.002, 0.01, 0.03, 0.1), JUMPRELU),
    "jumprelu_target": (SELECTED, JUMPRELU | {"penalty": 1.0, "penalty_warmup": 0.1}),
    "jumprelu_tanh": (
        (2, 5, 10, 20),  # lambda_S; the update's is from 10 to 20
        {
            "log_threshold": True,
            "initial_threshold": 0.1,
            "bandwidth": 2.0,
            "tanh_scale": 4.0,
            "preactivation_coefficient": 3e-6,
            "initial_l0": 10_000.0,
        },
    ),
    "p_anneal": (
        (0.035, 0.14, 0.3, 0.6),  # as the standard one
        {
            "ri_l1": False,
            "anneal_start": 0.5,
            "p_end": 0.0,
            "anneal_updates": 10,
            "anneal_queue": 10,
            "anneal_epsilon": 1e-4,
        },
    ),
    "topk": (SELECTED, SELECT),
    "batchtopk": (SELECTED, SELECT),
    "matryoshka": (SELECTED, SELECT | {"groups": (1 / 32, 1 / 16, 1 / 8, 1 / 4, 17 / 32), "blocks": 8}),
    "abstopk": (SELECTED, SELECT),
    "normalized": ((0.001, 0.004, 0.015, 0.06), {"noise": 0.3, "norm_power": 2, "decoder_bias": False}),
    "mutual_choice": (SELECTED, AUXILIARY | ZIPF),
    "feature_choice": (SELECTED, AUXILIARY | ZIPF | {"mutual_choice_share": 0.5}),
    "gba": (
        SELECTED,  # the sum of the features' target frequencies
        {
            "groups": 10,
            "frequency_span": 100.0,
            "every": 50,
            "step_down": 0.01,
            "step_up": 0.01,
            "silent": 1e-6,
            "least_bias": -1.0,
            "jump": False,
        },
    ),
    "top_afa": ((1.0, 2.0, 4.0, 8.0), AUXILIARY),  # weights of the norm loss; L0 is what it is
    "variational": (
        SELECTED,
        AUXILIARY
        | {
            "sample": True,
            "learned_variance": False,
            "log_variance": -6.0,  # the authors' -2 drowns inputs of unit norm
            "select_on_mean": False,
            "kl_coefficient": 1e-4,
            "kl_warm_up": 0.1,
        },
    ),
}


def get_config(part: str = "") -> ConfigDict:
    """The front door's settings, with four points of each architecture."""
    if part not in PARTS:
        raise ValueError(f"architectures.py:{part}: must be one of {', '.join(PARTS[1:])}, or nothing")
    config = pareto_sweep.get_config()
    config.training.steps = 10_240
    config.training.sparsity_warmup = "1000 steps"
    config.training.checkpoint_every = 2000
    config.evaluation.every = 0
    config.evaluation.tokens = 51_200
    for name, (coefficients, options) in OTHERS.items():
        entry = ConfigDict()
        entry.architecture = name
        entry.sites = config.sweep.gated.sites
        entry.width_factor = 1.5  # five products a step, as the standard one
        entry.sparsity_coefficients = tuple(float(value) for value in coefficients)
        entry.learning_rates = config.sweep.gated.learning_rates
        entry.seeds = (0,)
        entry.options = ConfigDict(COMMON | options)
        config.sweep[name] = entry
    for entry in config.sweep.values():
        if part == "tuning":
            entry.learning_rates, entry.seeds = TRIED, (TRIAL_SEED,)
        elif part == "seeds":
            entry.seeds = (0, 1, 2)
    if part == "tuning":  # judged on tokens that no result is measured on
        config.seed = TRIAL_SEED
        config.evaluation.skip_tokens, config.evaluation.tokens = 102_400, 25_600
    return config
