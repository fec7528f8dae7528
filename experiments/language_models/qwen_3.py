"""Gated against standard autoencoders on a Qwen 3 base model, text from FineWeb.

    python -m gsae.main --config=experiments/language_models/qwen_3.py:1.7B

After the colon: 0.6B, 1.7B (the default) or 4B. The site is the residual stream after the middle layer, features 16
times its width.

Needs, 1.7B: 8 points on 999 million rows: 4.19 h on 8 TPU v5e live, 4.57 h and 4.11 TB of disk cached; the sweep's
state 10.7 GB over all chips, live superblocks 8.6 GB of host memory.

That is arithmetic (`benchmarks/live_or_cached.py`), at 40 % of the chips' peak. It was not run at this size; expect
what 2404.16014 found on larger models: standard needs about twice the L0 for the same loss recovered, with gamma
below one, gated with gamma near one. Any other number of chips, GPUs included: all are used.
"""

from ml_collections import ConfigDict

from experiments.language_models.starting_point import FINEWEB, starting_point

SIZES = {"0.6B": (28, 1024), "1.7B": (28, 2048), "4B": (36, 2560)}  # layers, width of the residual stream


def get_config(size: str = "1.7B") -> ConfigDict:
    """The experiment for one size of model."""
    if size not in SIZES:
        raise ValueError(f"qwen_3.py:{size}: must be one of {', '.join(SIZES)}")
    layers, width = SIZES[size]
    config = starting_point(
        f"Qwen/Qwen3-{size}-Base",
        f"resid_post.{layers // 2}",
        FINEWEB,
        width=16 * width,
        context_length=1024,
        rows=1_000_000_000,
    )
    return config
