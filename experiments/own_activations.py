"""A sweep on activations of your own: no language model, no text; the frontier is drawn in FVU.

    python -m gsae.main --config=experiments/own_activations.py --config.activations.paths='("my_rows",)' \
        --config.sweep.gated.sites='("my_site",)' --config.sweep.standard.sites='("my_site",)'

trains on the rows below the directory `my_rows`, and judges by a tenth of them that never trains:

    my_rows/my_site/*.npy        [N, D], or [N, T, D] for sequences of T rows: the directory names the site
    my_rows/*.safetensors        the same; each tensor's name is its site's
    my_rows/                     a data set saved by `datasets`, such as SAELens' CacheActivationsRunner writes: the
                                 column (a hook's name) is the site

float32, float16 or bfloat16; several sites must have the same tokens in the same order. Arrays that are still in Python
(numpy, jax, torch) are written by

    gsae.import_rows(batches, "rows", site="my_site", superblock_rows=16_384)

and used with --config.activations.store=rows; experiments/own_activations.ipynb shows it with torch. All settings are
those of experiments/pareto_sweep.py but what is below. It needs at least 18,300 rows (a superblock, after a tenth is
held out), as much disk again as the rows take in bfloat16, and for rows of width 128 the front door's time to train
(about three and a half minutes on 2 cores). Rows are scaled to a mean squared norm of one, whatever it was, but the
sparsity coefficients are those of another site: look at L0 in the results and move them.
"""

from ml_collections import ConfigDict

from experiments import pareto_sweep


def get_config() -> ConfigDict:
    """The front door's settings, for rows from elsewhere."""
    config = pareto_sweep.get_config()
    config.language_model.name = ""  # none: loss recovered and KL stay empty in results.csv
    config.activations.source = "rows"
    config.activations.paths = ("rows",)  # files, directories, globs
    config.activations.held_out_fraction = 0.1  # share of the rows that never train
    config.activations.rows = 0  # all of them
    config.activations.superblock_rows = 16_384  # rows that are shuffled together in the end, after all in runs
    for entry in config.sweep.values():
        entry.sites = ("rows",)  # names as the files give them
    config.evaluation.tokens = 0  # rows to judge by; 0: all that are held out
    return config
