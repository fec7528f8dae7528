"""The tables that lead from a file's tensors to the parameters."""

import numpy as np
import pytest
from flax import nnx

from gsae.language_models.families import FAMILIES
from gsae.language_models.transformer import Transformer

# One small configuration for each family, with heads, key heads and widths that could not be mistaken for each other.
CONFIGS = {
    "gpt_neox": {
        "hidden_size": 40,
        "num_hidden_layers": 2,
        "num_attention_heads": 5,
        "intermediate_size": 24,
        "vocab_size": 30,
        "max_position_embeddings": 12,
    },
}
families = pytest.mark.parametrize("name", CONFIGS)


def file_of(tensors):
    """Every tensor of a file, filled with numbers that are all different."""
    arrays = {}
    for tensor in tensors:
        size = int(np.prod(tensor.file_shape))
        arrays[tensor.name] = np.arange(size, dtype=np.float32).reshape(tensor.file_shape) + len(arrays) * 1e5
    return arrays


def test_every_family_has_a_configuration_here():
    assert set(CONFIGS) == set(FAMILIES)


@families
def test_the_table_has_exactly_the_parameters_of_the_model(name):
    settings = FAMILIES[name].settings(CONFIGS[name])
    state = nnx.state(nnx.eval_shape(lambda: Transformer(settings, nnx.Rngs(0))), nnx.Param)
    shapes = {path: leaf.shape for path, leaf in nnx.to_flat_state(state)}
    assert {tensor.path: tensor.shape for tensor in FAMILIES[name].tensors(settings)} == shapes


@families
def test_what_is_read_from_a_file_and_written_gives_the_file_back(name):
    tensors = FAMILIES[name].tensors(FAMILIES[name].settings(CONFIGS[name]))
    arrays = file_of(tensors)
    written = {key: np.full_like(array, -1) for key, array in arrays.items()}
    for tensor in tensors:
        everything = [slice(None)] * len(tensor.shape)
        tensor.layout.write(
            tensor.layout.read(arrays[tensor.name].__getitem__, everything, np.float32), written[tensor.name]
        )
    for key, array in arrays.items():
        np.testing.assert_array_equal(written[key], array)


@families
def test_shared_axes_are_cut_between_heads_and_neurons(name):
    tensors = FAMILIES[name].tensors(FAMILIES[name].settings(CONFIGS[name]))
    for tensor in tensors:
        for shared, blocks, length in zip(tensor.partition, tensor.blocks, tensor.shape, strict=True):
            assert length % blocks == 0
            assert (shared is None) == (blocks == 1)
    shared = {tensor.path[2:]: tensor.partition for tensor in tensors if tensor.path[:2] == ("layers", 1)}
    assert shared[("attention", "k", "kernel")] == (None, "heads")
    assert shared[("attention", "out", "kernel")] == ("heads", None)
