"""Gated against standard autoencoders on Llama 3.2 1B, text from FineWeb.

    HF_TOKEN=... python -m gsae.main --config=experiments/language_models/llama_3_2_1b.py

The weights are gated: accept their licence on the hub first. The site is the residual stream after layer 8, the middle;
32,768 features are 16 times its width.

Needs: 8 points on 999 million rows: 3.98 h on 8 TPU v5e live, 4.57 h and 4.11 TB of disk cached; the sweep's state
10.7 GB over all chips, live superblocks 8.6 GB of host memory.

That is arithmetic (`benchmarks/live_or_cached.py`), at 40 % of the chips' peak. It was not run at this size; expect
what 2404.16014 found on larger models: standard needs about twice the L0 for the same loss recovered, with gamma
below one, gated with gamma near one. Any other number of chips, GPUs included: all are used.
"""

from ml_collections import ConfigDict

from experiments.language_models.starting_point import FINEWEB, starting_point


def get_config() -> ConfigDict:
    """The experiment."""
    config = starting_point(
        "meta-llama/Llama-3.2-1B", "resid_post.8", FINEWEB, width=32_768, context_length=1024, rows=1_000_000_000
    )
    return config
