"""The Gated SAE paper on Pythia-2.8B (Rajamanoharan et al. 2024, 2404.16014): one of its 15 places.

    python -m gsae.main --config=experiments/paper/pythia_2_8b.py:mlp_out.16 --workdir=runs/pythia_2_8b/mlp_out.16

After the colon: attn_z, mlp_out or resid_post of layer 4, 12, 16, 20 or 28 (mlp_out.16 by default). Makes the rows of
that place in the paper's tables 5 to 8, and one panel of its figure of Pythia's Pareto fronts, of relative
reconstruction biases and of the share alive; beside the paper's:

    python -m gsae.reports.compare --ours=runs/pythia_2_8b/mlp_out.16/results.csv --paper

All lambdas and learning rates of the tables, rows of 2048 tokens, 400,000 steps of 4096, in the paper's scale of the
loss. The text is the Pile, which the model was trained on.

Needs, mlp_out.16: 12 points on 1,638 million rows: 44.6 h on 8 TPU v5e live, 44.5 h and 8.41 TB of disk cached; the
sweep's state 80.5 GB over all chips, live superblocks 10.7 GB of host memory.

That is arithmetic (`benchmarks/live_or_cached.py`), at 40 % of the chips' peak. It was not run at this size. Any other
number of chips, GPUs included, does: the mesh is chosen over all of them (`python -m gsae.plan` says what to expect).
"""

from ml_collections import ConfigDict

from experiments.language_models.starting_point import PILE
from experiments.paper.as_published import Sweep, as_published, chosen

SWEEPS: dict[str, Sweep] = {
    "attn_z.4": {
        ("baseline", 196608, 0.001): (3e-05, 6e-05, 8e-05),
        ("gated", 131072, 0.0003): (0.0004, 0.0006, 0.0008),
    },
    "attn_z.12": {
        ("baseline", 196608, 0.001): (3e-05, 6e-05, 8e-05),
        ("gated", 131072, 0.0003): (0.0006, 0.0008, 0.001),
    },
    "attn_z.16": {
        ("baseline", 49152, 0.001): (9e-05, 0.0001, 0.00045),
        ("baseline", 196608, 0.001): (3e-05, 6e-05, 8e-05),
        ("gated", 32768, 0.0003): (0.0005, 0.0009, 0.001),
        ("gated", 131072, 0.0003): (0.0004, 0.0006, 0.0008),
    },
    "attn_z.20": {
        ("baseline", 196608, 0.001): (3e-05, 6e-05, 8e-05),
        ("gated", 131072, 0.0003): (0.0004, 0.0006, 0.0008),
    },
    "attn_z.28": {
        ("baseline", 196608, 0.001): (3e-05, 6e-05, 8e-05),
        ("gated", 131072, 0.0003): (0.0006, 0.0008, 0.001),
    },
    "mlp_out.4": {
        ("baseline", 196608, 0.001): (1e-05, 2e-05, 3.5e-05),
        ("gated", 131072, 0.0003): (0.0004, 0.0006, 0.0008),
    },
    "mlp_out.12": {
        ("baseline", 196608, 0.001): (3e-05, 5e-05, 7e-05),
        ("gated", 131072, 0.0003): (0.0008, 0.001, 0.002),
    },
    "mlp_out.16": {
        ("baseline", 196608, 0.001): (2.5e-05, 3e-05, 3.5e-05, 4e-05, 4.5e-05, 7.5e-05),
        ("gated", 131072, 0.0003): (0.0007, 0.0008, 0.0009, 0.0012, 0.0014, 0.0016),
    },
    "mlp_out.20": {
        ("baseline", 196608, 0.001): (7e-06, 2.5e-05, 3.5e-05),
        ("gated", 131072, 0.0003): (0.0008, 0.001, 0.0012),
    },
    "mlp_out.28": {
        ("baseline", 196608, 0.001): (2.25e-05, 3e-05, 4.5e-05),
        ("gated", 131072, 0.0003): (0.0008, 0.001, 0.0015),
    },
    "resid_post.4": {
        ("baseline", 49152, 0.001): (1e-05, 2e-05, 3e-05),
        ("gated", 32768, 0.0003): (0.0008, 0.001, 0.002),
    },
    "resid_post.12": {
        ("baseline", 49152, 0.001): (1e-05, 2e-05, 3e-05),
        ("gated", 32768, 0.0003): (0.0016, 0.002, 0.004),
    },
    "resid_post.16": {
        ("baseline", 49152, 0.001): (1e-05, 1.5e-05, 2e-05),
        ("baseline", 196608, 0.001): (8e-06, 3e-05, 5e-05),
        ("gated", 32768, 0.0003): (0.002, 0.003, 0.006),
        ("gated", 131072, 0.0003): (0.0015, 0.0025, 0.0045),
    },
    "resid_post.20": {
        ("baseline", 49152, 0.001): (7e-06, 2e-05, 4e-05),
        ("gated", 32768, 0.0003): (0.003, 0.004, 0.0075),
    },
    "resid_post.28": {
        ("baseline", 49152, 0.001): (7e-06, 1e-05, 2e-05),
        ("gated", 32768, 0.0003): (0.004, 0.005, 0.0075),
    },
}


def get_config(place: str = "mlp_out.16") -> ConfigDict:
    """The paper's points at one place."""
    sweep = chosen(place, SWEEPS, "pythia_2_8b.py")
    return as_published("EleutherAI/pythia-2.8b", place, PILE, sweep, context_length=2048, steps=400_000)
