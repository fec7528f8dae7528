"""Normalised autoencoders on all layers of a language model at once, standard ones beside them.

    python -m gsae.main --config=experiments/normalized.py

needs 2 cores and 0.8 GB of disk, and took ten minutes beside other work (24 points of 10,240 steps). It trains at
`resid_post` of each of the bundled model's four layers, on raw activations, whose norms grow from layer to layer, three
points of each kind of 256 features: one alpha, or one L1 coefficient, for all layers.

The report's plots of Hu's "Normalizing Sparse Autoencoders" (docs/architectures/normalized.md): in "Over layers" L0
against the inputs' mean norm with its fits, L0 against L1, and L0, reconstruction score and norm ratio by layer; in
"Vectors of the dictionaries" norms, cosines, correction, pillar and direction vectors and their overlap; in "Training"
the norm ratio. Frontiers, shrinkage and densities as in every report.

The greatest over the least L0 of the four layers, by coefficient: normalised 1.88, 1.48 and 1.09, standard 2.29, 3.04
and 2.51; gamma 0.97 to 0.99 and 0.75 to 0.94. Rates and coefficients are not tuned.
"""

from ml_collections import ConfigDict

from experiments import pareto_sweep

SITES = tuple(f"resid_post.{layer}" for layer in range(4))  # every layer of the bundled model


def get_config() -> ConfigDict:
    """Every layer, three coefficients, two architectures: 24 points of one run."""
    config = pareto_sweep.get_config()
    config.sae.normalisation = "none"  # raw norms differ from layer to layer: what the study is about
    config.activations.rows = 655_360
    del config.sweep.gated
    config.sweep.standard.sites = SITES
    config.sweep.standard.width_factor = 1.0
    config.sweep.standard.sparsity_coefficients = (1.0, 3.0, 10.0)  # of raw inputs, the same in all layers
    config.sweep.standard.learning_rates = (4e-3,)

    normalized = ConfigDict()
    normalized.architecture = "normalized"
    normalized.sites = SITES
    normalized.width_factor = 1.0
    normalized.sparsity_coefficients = (0.003, 0.01, 0.03)  # alpha: beta = alpha * (mean norm of the layer)^2
    normalized.learning_rates = (4e-3,)
    normalized.seeds = (0,)
    normalized.options = ConfigDict()
    normalized.options.noise = 0.3  # standard deviation before tanh(ReLU(.)), in training only
    normalized.options.norm_power = 2  # of the mean norm in beta
    normalized.options.decoder_bias = False
    normalized.options.reconstruction_scale = "sum"
    normalized.options.decoder_transpose_init = True
    config.sweep.normalized = normalized

    config.training.steps = 10_240
    config.evaluation.tokens = 51_200
    return config
