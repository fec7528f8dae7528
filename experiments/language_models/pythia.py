"""Gated against standard autoencoders on a Pythia model (Biderman et al. 2023), 70M to 2.8B, text from the Pile.

    python -m gsae.main --config=experiments/language_models/pythia.py:70m

After the colon: 70m (the default), 160m, 410m, 1b, 1.4b or 2.8b. The site is the residual stream after the middle
layer; `--config.sweep.gated.sites='("mlp_out.3",)'` (and the same for standard) chooses another.

Needs, 70m: 8 points on 300 million rows: 254 s on 8 TPU v5e live, 0.172 h and 310.7 GB of disk cached; the sweep's
state 0.7 GB over all chips, live superblocks 2.1 GB of host memory.

Needs, 2.8b: 8 points on 1,638 million rows: 9.49 h on 8 TPU v5e live, 9.36 h and 8.41 TB of disk cached; the sweep's
state 13.4 GB over all chips, live superblocks 10.7 GB of host memory.

That is arithmetic (`benchmarks/live_or_cached.py`), at 40 % of the chips' peak. It was not run at this size; expect
what 2404.16014 found on larger models: standard needs about twice the L0 for the same loss recovered, with gamma
below one, gated with gamma near one. Any other number of chips, GPUs included: all are used.
"""

from ml_collections import ConfigDict

from experiments.language_models.starting_point import PILE, starting_point

SIZES = {  # layers, features: about 16 times the width of the residual stream, 32768 at 2.8B as in 2404.16014
    "70m": (6, 8192),
    "160m": (12, 12288),
    "410m": (24, 16384),
    "1b": (16, 32768),
    "1.4b": (24, 32768),
    "2.8b": (32, 32768),
}
ROWS = {"70m": 300_000_000, "160m": 300_000_000, "410m": 500_000_000}  # the larger ones: 1.6e9, 400,000 steps


def get_config(size: str = "70m") -> ConfigDict:
    """The experiment for one size of model."""
    if size not in SIZES:
        raise ValueError(f"pythia.py:{size}: must be one of {', '.join(SIZES)}")
    layers, features = SIZES[size]
    return starting_point(
        f"EleutherAI/pythia-{size}",
        f"resid_post.{layers // 2}",
        PILE,
        width=features,
        context_length=2048,
        rows=ROWS.get(size, 1_638_400_000),
    )
