"""What capturing and replacing mean, on small models with random weights, parallel and serial."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from gsae.language_models.settings import AttentionSettings, MLPSettings, NormSettings, RotarySettings, Settings
from gsae.language_models.sites import NAMES, Site
from gsae.language_models.transformer import Transformer

SETTINGS = Settings(
    width=24,
    vocabulary=50,
    context_length=16,
    attention=(AttentionSettings(heads=3, key_heads=3, head_width=8, scale=8**-0.5, rotary=RotarySettings(4, 1e4)),)
    * 3,
    mlp=MLPSettings(40, "gelu"),
    norm=NormSettings("layer", 1e-5),
    parallel_residual=True,
)
ALL = [Site(layer, name) for layer in range(SETTINGS.num_layers) for name in NAMES]


@pytest.fixture(params=[True, False], ids=["parallel", "serial"])
def model(request):
    model = Transformer(dataclasses.replace(SETTINGS, parallel_residual=request.param), nnx.Rngs(0))
    # Weights large enough that every site matters to the logits.
    return nnx.merge(
        nnx.graphdef(model),
        jax.tree.map(
            lambda leaf: leaf + 0.2 * jax.random.normal(jax.random.key(leaf.size), leaf.shape), nnx.state(model)
        ),
    )


@pytest.fixture
def tokens():
    return jax.random.randint(jax.random.key(1), (2, 10), 0, SETTINGS.vocabulary)


def test_captured_sites_have_the_widths_that_the_model_says(model, tokens):
    _, captured = model.blocks(model.embed(tokens), 0, 3, capture=ALL)
    assert set(captured) == set(ALL)
    for site, array in captured.items():
        assert array.shape == (2, 10, model.site_width(site.name))
    assert model.site_width("mlp_act") == 40
    with pytest.raises(ValueError, match="resid_pre"):
        model.site_width("mlp")


def test_capturing_changes_nothing_and_the_stream_is_the_sum_of_its_parts(model, tokens):
    h = model.embed(tokens)
    plain, none = model.blocks(h, 0, 3)
    observed, captured = model.blocks(h, 0, 3, capture=ALL)
    assert none == {}
    np.testing.assert_array_equal(plain, observed)
    for layer in range(3):
        pre, mid, post = (captured[Site(layer, name)] for name in ("resid_pre", "resid_mid", "resid_post"))
        np.testing.assert_allclose(mid, pre + captured[Site(layer, "attn_out")], atol=1e-6)
        np.testing.assert_allclose(post, mid + captured[Site(layer, "mlp_out")], atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_a_site_replaced_by_its_own_capture_changes_nothing(model, tokens, name):
    h = model.embed(tokens)
    site = Site(1, name)
    plain, captured = model.blocks(h, 0, 3, capture=[site])
    again, _ = model.blocks(h, 0, 3, replace=captured)
    np.testing.assert_array_equal(plain, again)


@pytest.mark.parametrize("name", NAMES)
def test_a_replacement_is_seen_downstream_only_and_at_the_site_itself(model, tokens, name):
    h = model.embed(tokens)
    site = Site(1, name)
    _, before = model.blocks(h, 0, 3, capture=ALL)
    replacement = before[site] + 1.0
    _, after = model.blocks(h, 0, 3, capture=ALL, replace={site: replacement})
    np.testing.assert_array_equal(after[site], replacement)
    changed = {str(s) for s in ALL if not np.array_equal(before[s], after[s])}
    order = ["resid_pre", "attn_z", "attn_out", "resid_mid", "mlp_act", "mlp_out", "resid_post"]
    seen = set(order[order.index(name) :])
    if model.settings.parallel_residual and name in ("attn_z", "attn_out", "resid_mid"):
        seen -= {"mlp_act", "mlp_out"}  # the MLP reads the layer's input, past attention
    expected = {f"{n}.1" for n in seen} | {f"{n}.2" for n in NAMES}
    assert changed == expected


def test_layers_run_in_parts_equal_the_whole(model, tokens):
    h = model.embed(tokens)
    whole, captured = model.blocks(h, 0, 3, capture=ALL)
    first, early = model.blocks(h, 0, 2, capture=[site for site in ALL if site.layer < 2])
    second, late = model.blocks(first, 2, 3, capture=[site for site in ALL if site.layer == 2])
    np.testing.assert_array_equal(whole, second)
    for site, array in (early | late).items():
        np.testing.assert_array_equal(array, captured[site])
    np.testing.assert_array_equal(model(tokens), model.unembed(whole))


def test_layers_nobody_asked_for_are_not_computed(model, tokens):
    graph, state = nnx.split(model)

    def flops(stop, capture):
        def run(state, tokens):
            merged = nnx.merge(graph, state)
            return merged.blocks(merged.embed(tokens), 0, stop, capture=capture)[1]

        return jax.jit(run).lower(state, tokens).compile().cost_analysis()["flops"]

    one = flops(1, [Site(0, "mlp_out")])
    assert flops(3, [Site(2, "mlp_out")]) > 2.5 * one
    assert flops(1, [Site(0, "attn_z")]) < 0.9 * one


@pytest.mark.parametrize("site", [Site(0, "mlp_out"), Site(2, "mlp_out")])
def test_sites_outside_the_layers_that_run_are_refused(model, tokens, site):
    h = model.embed(tokens)
    with pytest.raises(ValueError, match=str(site)):
        model.blocks(h, 1, 2, capture=[site])
    with pytest.raises(ValueError, match=str(site)):
        model.blocks(h, 1, 2, replace={site: h})
    with pytest.raises(ValueError, match="layers 2 to 4"):
        model.blocks(h, 2, 4)


def test_no_position_sees_a_later_one(model, tokens):
    changed = tokens.at[:, 6].set((tokens[:, 6] + 1) % SETTINGS.vocabulary)
    before, after = model(tokens), model(changed)
    np.testing.assert_array_equal(before[:, :6], after[:, :6])
    assert not np.allclose(before[:, 6:], after[:, 6:])


def test_order_matters_through_rotary_positions_alone(tokens):
    # One layer: its last position sees the same bag of tokens either way.
    turned = tokens.at[:, :9].set(tokens[:, 8::-1])

    def last_logits(rotary):
        attention = dataclasses.replace(SETTINGS.attention[0], rotary=rotary)
        model = Transformer(dataclasses.replace(SETTINGS, attention=(attention,)), nnx.Rngs(0))
        for name in ("q", "k", "v", "out"):
            kernel = getattr(model.layers[0].attention, name).kernel
            kernel[...] = jax.random.normal(jax.random.key(ord(name[0])), kernel.shape)
        return model(tokens)[:, -1], model(turned)[:, -1]

    np.testing.assert_allclose(*last_logits(None), atol=1e-4)
    assert np.abs(np.subtract(*last_logits(RotarySettings(4, 1e4)))).max() > 1e-2


def test_bfloat16_parameters_give_bfloat16_close_to_float32(model, tokens):
    graph, state = nnx.split(model)
    half = nnx.merge(graph, jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), state))
    logits, exact = half(tokens), model(tokens)
    assert logits.dtype == jnp.bfloat16
    error = np.asarray(logits, np.float32) - exact
    assert np.sqrt(np.mean(error**2)) < 0.05 * np.std(exact)
