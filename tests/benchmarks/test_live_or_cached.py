"""The arithmetic of live against cached, and that the document holds the table that it gives."""

import dataclasses

import pytest

from benchmarks import live_or_cached
from benchmarks.live_or_cached import DOCUMENT, LAPTOP, MODELS, Machine, compare, written
from gsae.activations.capture import traced
from gsae.language_models.loading import load_language_model
from gsae.language_models.sites import Site
from gsae.throughput import count_flops

ONE = Machine("one", 1, 1e9, 1e6)
RUN = {
    "rows": 1000,
    "trained_rows": 3000,
    "statistics_rows": 500,
    "superblock_overlap": 0.1,
    "row_bytes": 100,
    "provenance_bytes": 20,
    "model_flops": 1e6,
    "training_flops": 2e6,
}


def test_both_ways_by_hand():
    found = compare(ONE, **RUN)
    assert found.passes == 3 and found.disk_bytes == 120_000
    assert found.harvest == pytest.approx(1.0)  # 1000 rows of 1 MFLOP; their bytes take 0.12 s
    assert found.cached_training == pytest.approx(6.0)
    assert found.live == pytest.approx(3500 * 1.1e-3 + 6.0)
    assert found.extra_flops == pytest.approx(3500 * 1.1e6 - 1000 * 1e6)


def test_at_the_even_disk_both_take_as_long():
    found = compare(ONE, **RUN)
    at = compare(dataclasses.replace(ONE, disk=found.even_disk), **RUN)
    assert at.harvest + at.cached_training == pytest.approx(at.live, rel=0.01)
    slower = compare(dataclasses.replace(ONE, disk=found.even_disk / 2), **RUN)
    assert slower.harvest + slower.cached_training > slower.live


def test_the_bundled_model_has_the_sizes_that_are_counted_with():
    settings, sizes = load_language_model("bundled").settings, MODELS["bundled"]
    assert (settings.num_layers, settings.width, settings.mlp.width) == (sizes.num_layers, sizes.width, sizes.mlp_width)
    for layer in settings.attention:
        assert (layer.heads, layer.key_heads, layer.head_width) == (
            sizes.heads,
            sizes.key_value_heads,
            sizes.head_width,
        )


def test_flops_are_those_of_the_traced_pass():
    """The bundled model to its last layer: all its products, attention among them, within a few per cent."""
    program = traced(load_language_model("bundled"), [Site(3, "resid_post")], (2, 64), "bfloat16")
    counted = count_flops(program.jaxpr) / (2 * 64)
    assert MODELS["bundled"].flops_a_token(4, 64) == pytest.approx(counted, rel=0.05)


@pytest.mark.slow
def test_the_document_holds_the_table():
    text = DOCUMENT.read_text()
    assert written(text) == text, "python benchmarks/live_or_cached.py --write"
    assert LAPTOP.name in text and live_or_cached.TPUS.name in text
