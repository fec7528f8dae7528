"""Gated against standard autoencoders on Gemma 2 2B, text from the Pile, sizes of Gemma Scope (2408.05147).

    HF_TOKEN=... python -m gsae.main --config=experiments/language_models/gemma_2_2b.py

The weights are gated: accept their licence on the hub first. The site is the residual stream after layer 12; 16,384
features and rows of 1024 tokens as in Gemma Scope, whose autoencoders saw 4 billion tokens (here 1.6).

Needs: 8 points on 1,638 million rows: 4.8 h on 8 TPU v5e live, 5.26 h and 7.57 TB of disk cached; the sweep's state
6.0 GB over all chips, live superblocks 9.7 GB of host memory.

That is arithmetic (`benchmarks/live_or_cached.py`), at 40 % of the chips' peak. It was not run at this size; expect
what 2404.16014 found on larger models: standard needs about twice the L0 for the same loss recovered, with gamma
below one, gated with gamma near one. Any other number of chips, GPUs included: all are used.
"""

from ml_collections import ConfigDict

from experiments.language_models.starting_point import PILE, starting_point


def get_config() -> ConfigDict:
    """The experiment."""
    return starting_point(
        "google/gemma-2-2b", "resid_post.12", PILE, width=16_384, context_length=1024, rows=1_638_400_000
    )
