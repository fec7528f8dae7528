"""The Gated SAE paper on GELU-1L (Rajamanoharan et al. 2024, 2404.16014): frontier and ablations.

    python -m gsae.main --config=experiments/paper/gelu_1l.py

The 2048 neurons of the only MLP after the GELU, rows of 128 tokens, 300,000 steps of 4096 at learning rate 3e-4 for
both kinds. After the colon: `frontier` (the default; the paper's figures of GELU-1L's Pareto fronts and of shrinkage)
or `ablations` (its figures of the ablations: unfrozen decoder, no r_mag, untied encoders, beside the plain form). The
paper shows them as plots only, without tables: the lambdas and widths below are ours, in its scale of the loss
(squared errors divided by the width, both kinds), and no frontier of this model has been seen with them. Rescale &
shift goes on from `equal_width`, baselines as wide as the gated ones: `rescaled`, with --config.sae.start_from=<its
workdir>. Each part needs a --workdir of its own.

Needs, frontier: 8 points on 1,229 million rows: 2.11 h on 8 TPU v5e live, 3.51 h and 5.05 TB of disk cached; the
sweep's state 5.4 GB over all chips, live superblocks 8.6 GB of host memory.

That is arithmetic (`benchmarks/live_or_cached.py`), at 40 % of the chips' peak. It was not run at this size. Any other
number of chips, GPUs included, does: the mesh is chosen over all of them. The text is C4, most of what the model was
trained on.
"""

from ml_collections import ConfigDict

from experiments.language_models.starting_point import C4
from experiments.paper.as_published import Sweep, as_published

WIDTH, RATE = 16_384, 3e-4
LAMBDAS = (1e-4, 2e-4, 4e-4, 8e-4)
FRONTIER: Sweep = {
    ("gated", WIDTH, RATE): LAMBDAS,
    ("baseline", 3 * WIDTH // 2, RATE): tuple(lam / 2 for lam in LAMBDAS),
}
ABLATIONS = {"unfrozen": {"frozen_decoder": False}, "no_r_mag": {"r_mag": False}, "untied": {"tied": False}}
PARTS = ("frontier", "equal_width", "ablations", "rescaled")


def get_config(part: str = "frontier") -> ConfigDict:
    """One part of the paper's study of this model."""
    if part not in PARTS:
        raise ValueError(f"gelu_1l.py:{part}: must be one of {', '.join(PARTS)}")
    config = as_published(
        "NeelNanda/GELU_1L512W_C4_Code",
        "mlp_act.0",
        C4,
        FRONTIER,
        context_length=128,
        steps=300_000,
        baseline_scale="width",
    )
    config.text.prepend_bos = "always"  # as the model was trained
    (standard_name, standard), (gated_name, gated) = sorted(config.sweep.items())  # baseline_..., gated_...
    if part in ("equal_width", "rescaled"):
        del config.sweep[gated_name]
        standard.width_factor = 1.0
    if part == "rescaled":
        standard.architecture = config.evaluation.baseline = "rescaled_standard"
        config.sae.start_from = "runs/gelu_1l"  # where `equal_width` was trained
    if part == "ablations":
        del config.sweep[standard_name]
        for name, options in ABLATIONS.items():
            config.sweep[name] = gated.copy_and_resolve_references()
            config.sweep[name].options.update(options)
        config.evaluation.baseline = gated.architecture
    return config
