"""Every architecture whose sparsity coefficient decides L0, with a target instead of one: how near do they come?

    python -m gsae.main --config=experiments/target_l0.py

The front door's text, site, rows, schedule and held-out tokens; four targets for each of five architectures, 20 points
and as many of the pilot (1024 steps). Ten minutes on 2 cores beside other work. L0 on the held-out tokens came to 0.96
to 1.06 of the targets (docs/sweeps.md). On a GPU add `--config.evaluation.sequences_at_once=64`.
"""

from ml_collections import ConfigDict

from experiments import architectures, pareto_sweep

NAMES = ("gated", "standard", "jumprelu", "p_anneal", "normalized")
TARGETS = (5.0, 10.0, 20.0, 40.0)  # features a token, of 256 or 384, on activations of width 128


def get_config() -> ConfigDict:
    """The front door's settings, with five entries of `architectures` whose coefficients are to be found."""
    config, entries = pareto_sweep.get_config(), architectures.get_config().sweep
    for name in NAMES:
        config.sweep[name] = config.sweep[name] if name in config.sweep else entries[name]
        config.sweep[name].sparsity_coefficients = ()
        config.sweep[name].target_l0 = TARGETS
    return config
