"""The Gated SAE paper on Gemma-7B (Rajamanoharan et al. 2024, 2404.16014): one of its 12 places.

    python -m gsae.main --config=experiments/paper/gemma_7b.py:resid_post.20 --workdir=runs/gemma_7b/resid_post.20

After the colon: attn_z, mlp_out or resid_post of layer 6, 13, 20 or 27 (resid_post.20 by default). Makes the rows of
that place in the paper's tables 1 to 4, and one panel of its figure of Gemma's Pareto fronts, of relative
reconstruction biases and of the share alive; beside the paper's:

    python -m gsae.reports.compare --ours=runs/gemma_7b/resid_post.20/results.csv --paper

All lambdas and learning rates of the tables, rows of 1024 tokens, 300,000 steps of 4096, in the paper's scale of the
loss. The text is FineWeb, for want of a better guess.

Needs, resid_post.20: 19 points on 1,229 million rows: 67.3 h on 8 TPU v5e live, 66.9 h and 7.56 TB of disk cached; the
sweep's state 157.8 GB over all chips, live superblocks 12.9 GB of host memory. That is the time of 8 chips, whose
128 GB do not hold the state: take 16 or more.

That is arithmetic (`benchmarks/live_or_cached.py`), at 40 % of the chips' peak. It was not run at this size. Any other
number of chips, GPUs included, does: the mesh is chosen over all of them (`python -m gsae.plan` says what to expect).
"""

from ml_collections import ConfigDict

from experiments.language_models.starting_point import FINEWEB
from experiments.paper.as_published import Sweep, as_published, chosen

SWEEPS: dict[str, Sweep] = {
    "resid_post.6": {
        ("baseline", 196608, 0.001): (1e-05, 2e-05, 3e-05),
        ("baseline", 196608, 0.00075): (4e-06, 6e-06, 8e-06, 1e-05, 2e-05, 3e-05),
        ("gated", 131072, 0.0003): (
            8e-06,
            2e-05,
            4e-05,
            6e-05,
            8e-05,
            0.0001,
            0.0002,
            0.0004,
            0.0006,
            0.0008,
            0.001,
            0.0012,
        ),
    },
    "resid_post.13": {
        ("baseline", 196608, 0.00075): (1e-05, 2e-05, 3e-05, 5e-05, 8e-05, 9e-05),
        ("baseline", 196608, 0.001): (3e-05, 5e-05, 8e-05),
        ("gated", 131072, 0.0003): (0.0001, 0.0002, 0.0003, 0.0005, 0.0008),
    },
    "resid_post.20": {
        ("baseline", 196608, 0.00075): (1e-05, 1.5e-05, 2e-05, 3e-05, 4e-05, 9e-05, 0.0001, 0.00012),
        ("baseline", 196608, 0.001): (3e-05, 5e-05, 7e-05),
        ("gated", 131072, 0.0003): (0.0001, 0.0002, 0.0003, 0.0005, 0.0007, 0.0008, 0.0009, 0.001),
    },
    "resid_post.27": {
        ("baseline", 196608, 0.001): (8e-06, 1e-05),
        ("baseline", 196608, 0.00075): (2e-06, 4e-06, 1.2e-05),
        ("gated", 131072, 0.0003): (0.001, 0.002, 0.003),
    },
    "mlp_out.6": {
        ("baseline", 196608, 0.001): (7e-05, 0.0001, 0.0004),
        ("baseline", 196608, 0.00075): (1.5e-05, 3e-05, 5e-05, 7e-05, 0.0001),
        ("gated", 131072, 0.0003): (7e-05, 0.0001, 0.0004),
    },
    "mlp_out.13": {
        ("baseline", 196608, 0.00075): (1e-05, 2e-05, 3e-05, 5e-05, 8e-05),
        ("baseline", 196608, 0.001): (3e-05, 5e-05, 8e-05),
        ("gated", 131072, 0.0003): (3e-05, 5e-05, 7e-05, 8e-05, 9e-05),
    },
    "mlp_out.20": {
        ("baseline", 196608, 0.001): (3e-05, 5e-05, 7e-05),
        ("baseline", 196608, 0.00075): (1e-05, 1.5e-05, 2e-05, 3e-05, 3.5e-05, 4e-05, 4.5e-05, 5e-05),
        ("gated", 131072, 0.0003): (
            1.1e-05,
            8e-05,
            9e-05,
            0.0001,
            0.00012,
            0.00013,
            0.00014,
            0.00015,
            0.00016,
            0.00019,
        ),
    },
    "mlp_out.27": {
        ("baseline", 196608, 0.001): (8e-06, 1e-05, 1.2e-05),
        ("baseline", 196608, 0.00075): (3e-06, 5.5e-06, 6e-06),
        ("gated", 131072, 0.0003): (0.000135, 0.00015, 0.000175, 0.0002, 0.0003, 0.0008, 0.001, 0.0012),
    },
    "attn_z.6": {
        ("baseline", 196608, 0.00075): (3e-05, 5e-05, 7e-05),
        ("gated", 131072, 0.0003): (0.0003, 0.0005, 0.0007),
    },
    "attn_z.13": {
        ("baseline", 196608, 0.00075): (3e-05, 5e-05, 7e-05),
        ("gated", 131072, 0.0003): (2e-05, 4e-05, 0.0002, 0.0004, 0.0006, 0.0012),
    },
    "attn_z.20": {
        ("baseline", 196608, 0.00075): (1e-05, 1.5e-05, 2e-05, 3e-05, 4e-05, 5e-05, 6e-05, 7e-05, 8e-05, 9e-05),
        ("gated", 131072, 0.0003): (
            2e-05,
            4e-05,
            6e-05,
            0.0001,
            0.00015,
            0.0002,
            0.00025,
            0.00035,
            0.0004,
            0.00045,
            0.00055,
            0.0006,
            0.0012,
        ),
    },
    "attn_z.27": {
        ("baseline", 196608, 0.00075): (0.0001, 0.0006, 0.0008),
        ("gated", 131072, 0.0003): (0.0007, 0.001, 0.002),
    },
}


def get_config(place: str = "resid_post.20") -> ConfigDict:
    """The paper's points at one place."""
    sweep = chosen(place, SWEEPS, "gemma_7b.py")
    return as_published("google/gemma-7b", place, FINEWEB, sweep, context_length=1024, steps=300_000)
