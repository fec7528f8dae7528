"""Gated against standard autoencoders on GPT-2 small (Radford et al. 2019), text from OpenWebText.

    python -m gsae.main --config=experiments/language_models/gpt2.py

The site is the residual stream that enters layer 8, among the most studied ones; 24,576 features are 32 times its
width.

Needs: 8 points on 300 million rows: 0.311 h on 8 TPU v5e live, 0.418 h and 464.2 GB of disk cached; the sweep's state
3.0 GB over all chips, live superblocks 3.2 GB of host memory.

That is arithmetic (`benchmarks/live_or_cached.py`), at 40 % of the chips' peak. It was not run at this size; expect
what 2404.16014 found on larger models: standard needs about twice the L0 for the same loss recovered, with gamma
below one, gated with gamma near one. Any other number of chips, GPUs included: all are used.
"""

from ml_collections import ConfigDict

from experiments.language_models.starting_point import OPEN_WEB_TEXT, starting_point


def get_config() -> ConfigDict:
    """The experiment."""
    config = starting_point(
        "openai-community/gpt2", "resid_pre.8", OPEN_WEB_TEXT, width=24_576, context_length=1024, rows=300_000_000
    )
    config.text.prepend_bos = "always"  # as its SAEs in the literature are trained
    return config
