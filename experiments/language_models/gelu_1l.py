"""Gated against standard autoencoders on the neurons of GELU-1L (TransformerLens), text from C4.

    python -m gsae.main --config=experiments/language_models/gelu_1l.py

The site of 2404.16014, section 4.1: the 2048 neurons of the only MLP after the GELU, rows of 128 tokens. The paper does
not name its data; C4 is most of what the model was trained on.

Needs: 8 points on 1,228 million rows: 2.11 h on 8 TPU v5e live, 3.51 h and 5.04 TB of disk cached; the sweep's state
5.4 GB over all chips, live superblocks 8.6 GB of host memory.

That is arithmetic (`benchmarks/live_or_cached.py`), at 40 % of the chips' peak. It was not run at this size; expect
what 2404.16014 found on larger models: standard needs about twice the L0 for the same loss recovered, with gamma
below one, gated with gamma near one. Any other number of chips, GPUs included: all are used.
"""

from ml_collections import ConfigDict

from experiments.language_models.starting_point import C4, starting_point


def get_config() -> ConfigDict:
    """The experiment."""
    config = starting_point(
        "NeelNanda/GELU_1L512W_C4_Code", "mlp_act.0", C4, width=16_384, context_length=128, rows=1_228_800_000
    )
    config.text.prepend_bos = "always"  # as the model was trained
    return config
