"""What the experiments on published language models share; each of them is this with a model, a text and sizes.

The autoencoders' settings are a starting point and were not tuned on these models, which could not be run where they
were written: inputs of unit mean squared norm, Adam without momentum, batch 4096 and the warm-ups of Gemma Scope
(Lieberum et al. 2024, 2408.05147, section 3), learning rates of the Gated SAE paper (2404.16014, tables 1 to 8),
compute matching as there (standard 1.5 times as wide). The sparsity coefficients are in units of summed squares at unit
mean squared norm, and no frontier of these models has been seen with them: look at that of a short run first
(`--config.training.steps=5000`), then move them.
"""

import dataclasses

from ml_collections import ConfigDict

from experiments import pareto_sweep

BATCH = 4096


@dataclasses.dataclass(frozen=True)
class Text:
    """A data set on the hub, and how many tokens of a document one may count on (ours: a low guess, to take enough)."""

    name: str
    configuration: str
    tokens: int


PILE = Text("monology/pile-uncopyrighted", "", 1000)  # without what was taken down; its files need `zstandard`
OPEN_WEB_TEXT = Text("Skylion007/openwebtext", "", 800)
FINEWEB = Text("HuggingFaceFW/fineweb", "sample-10BT", 500)
C4 = Text("allenai/c4", "en", 350)


def starting_point(model: str, site: str, text: Text, *, width: int, context_length: int, rows: int) -> ConfigDict:
    """Gated against standard at one site of a published model.

    Args:
        model: hub id.
        site: `name.layer`.
        text: what the model reads.
        width: features of the gated autoencoders.
        context_length: tokens a row of text.
        rows: activations that each point sees, once; rounded down to whole superblocks.
    """
    config = pareto_sweep.get_config()
    config.language_model.name = model
    config.language_model.dtype = "bfloat16"
    config.text.source = "hugging_face"
    config.text.name, config.text.configuration = text.name, text.configuration
    config.text.max_documents = rows // text.tokens  # tokenising ends there
    config.text.shuffle_buffer = 10_000
    config.text.context_length = context_length
    config.text.held_out_fraction = 0.005

    config.activations.source = "live"  # most of these would fill terabytes
    config.activations.superblock_rows = 1 << 20  # the shuffle buffer of the Gated SAE paper
    config.activations.rows = rows - rows % config.activations.superblock_rows
    config.sae.width = width
    config.training.batch_size = BATCH
    config.training.steps = config.activations.rows // BATCH
    config.training.warmup = config.training.decay_start = "1000 steps"
    config.training.warmup_shape = "cosine"
    config.training.sparsity_warmup = "10_000 steps"
    config.training.dead_window = "10_000_000 tokens"
    config.training.resampling.at = ("15%", "30%", "45%", "60%")
    config.training.resampling.inputs = 819_200
    config.training.resampling.rewarmup = "1000 steps"
    config.training.checkpoint_every = 5000
    for entry, learning_rate, coefficients in (
        (config.sweep.gated, 3e-4, (0.1, 0.2, 0.4, 0.8)),
        (config.sweep.standard, 7.5e-4, (0.05, 0.1, 0.2, 0.4)),
    ):
        entry.sites = (site,)
        entry.learning_rates = (learning_rate,)
        entry.sparsity_coefficients = coefficients
    config.evaluation.tokens = 1 << 20  # the paper: more than a million
    config.evaluation.every = 10_000
    config.evaluation.quick_tokens = 65_536
    return config
