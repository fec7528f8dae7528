"""The language model that ships with the package: GPT-NeoX, 4 layers, width 128, on the Python standard library.

    python -m gsae.pretrain --config=experiments/pretrain_bundled.py

writes a Hugging Face directory to runs/pretrain_bundled/model, the origin of gsae/language_models/bundled/. Takes
about an hour on two cores that do little else (0.6 to 1 s a step) and 1 GB of memory. Expect a held-out cross-entropy
of 3.02 nats a token, 1.27 bits a byte; an interpolated 5-gram has 3.91 and 1.65, xz -9 has 1.68 bits a byte.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Every knob of `gsae.pretrain`."""
    config = ConfigDict()
    config.seed = 0  # of the initial weights and of the order of the rows

    config.mesh = ConfigDict()
    config.mesh.data = 2  # devices (on a CPU: cores) that share the rows of a batch

    config.text = ConfigDict()
    config.text.held_out_fraction = 0.1  # share of the documents' bytes that is only evaluated on

    config.model = ConfigDict()
    config.model.vocabulary = 4096  # entries of the tokenizer, the separator among them
    config.model.context_length = 256  # tokens
    config.model.num_layers = 4
    config.model.width = 128  # numbers in the residual stream
    config.model.num_heads = 4
    config.model.mlp_width = 512  # neurons of a layer
    config.model.rotary_fraction = 0.25  # share of a head's numbers that the position rotates
    config.model.parallel_residual = True  # attention and MLP both read the layer's input

    config.training = ConfigDict()
    config.training.steps = 3400  # updates
    config.training.batch_size = 16  # rows of context_length tokens
    config.training.peak_learning_rate = 2.5e-3  # of AdamW
    config.training.warmup_steps = 150  # updates, linear from zero
    config.training.decay_steps = 1100  # the last updates, linear to zero
    config.training.weight_decay = 0.1  # of matrices, times the learning rate, a step
    config.training.beta1 = 0.9  # decay of AdamW's first moment
    config.training.beta2 = 0.95  # decay of AdamW's second moment
    config.training.gradient_clip = 1.0  # greatest L2 norm of a step's gradient

    config.logging = ConfigDict()
    config.logging.loss_every_steps = 25  # updates between lines of the training loss
    config.logging.evaluate_every_steps = 400  # updates between held-out cross-entropies; each writes the model too
    config.logging.evaluation_tokens = 32768  # held-out tokens of such an evaluation; the last one takes all

    config.checkpoints = ConfigDict()
    config.checkpoints.every_steps = 400  # updates
    config.checkpoints.kept = 2  # the newest ones
    return config
