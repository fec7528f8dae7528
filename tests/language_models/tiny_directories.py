"""Model directories with random weights, written without the model: in any dtype, of any size."""

import json
import shutil

import numpy as np
from safetensors.numpy import save_file

from gsae.language_models import hub
from gsae.language_models.families import family_of

SIZES = {"num_hidden_layers": 1, "max_position_embeddings": 16, "eos_token_id": 0, "bos_token_id": 0}


def make_directory(path, dtype=np.float32, **changes):
    """A GPT-NeoX model in `path`: the bundled one's configuration with changes, every tensor of it random."""
    bundled = hub.find("bundled").directory
    config = json.loads((bundled / "config.json").read_text()) | SIZES | changes
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(bundled / name, path / name)
    (path / "config.json").write_text(json.dumps(config))
    family, rng = family_of(config), np.random.default_rng(0)
    shapes = {tensor.name: tensor.file_shape for tensor in family.tensors(family.settings(config))}
    tensors = {name: (0.1 * rng.standard_normal(shape, np.float32)).astype(dtype) for name, shape in shapes.items()}
    save_file(tensors, path / "model.safetensors")
    return path
