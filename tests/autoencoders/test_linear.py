"""The products: their value, their number, their dtypes. (Their sharding: test_linear_sharded.py.)"""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gsae.autoencoders import linear
from gsae.autoencoders.gated import Gated, GatedOptions
from gsae.autoencoders.jumprelu import JumpReLU
from gsae.autoencoders.standard import Standard

B, D, F = 256, 64, 128


def compiled_gradient(sae, context, rows=B):
    """The production step's heart, compiled: loss, statistics, all gradients."""

    def gradient(sae, x_BD):
        return jax.value_and_grad(lambda sae: sae.loss({"x": x_BD}, context), has_aux=True)(sae)

    return jax.jit(gradient).lower(sae, jax.ShapeDtypeStruct((rows, sae.W_enc.shape[0]), jnp.float32))


@pytest.mark.parametrize(
    ("cls", "options", "products"),
    [
        (Gated, {}, 7),
        (Gated, {"r_mag": False}, 7),
        (Gated, {"tied": False}, 9),
        (Gated, {"frozen_decoder": False}, 8),
        (Standard, {}, 5),
        (Standard, {"ri_l1": True}, 5),
        (JumpReLU, {}, 5),
    ],
)
def test_number_of_products(cls, options, products, context):
    """FLOPs of the compiled program: 2 B D F a product, and elementwise work of order B F."""
    sae = cls.initialise(jax.random.key(0), D, F, cls.Options(**options))
    flops = compiled_gradient(sae, context(0.1, "float32")).compile().cost_analysis()["flops"]
    assert products <= flops / (2 * B * D * F) < products + 0.5


@pytest.mark.parametrize("cls", [Gated, JumpReLU, Standard])
def test_bfloat16_operands_float32_sums(cls, context):
    """Of all products of order B D F, forward and backward, in the program handed to the compiler."""
    sae = cls.initialise(jax.random.key(0), D, F, cls.Options())
    text = compiled_gradient(sae, context(0.1, "bfloat16")).as_text()
    types = re.findall(r"dot_general .*: \((tensor<\S+>), (tensor<\S+>)\) -> (tensor<\S+>)", text)
    large = [t for t in types if all("x" in shape.replace("x1x", "x") and shape.count("x") == 2 for shape in t)]
    assert len(large) == {Gated: 7, JumpReLU: 5, Standard: 5}[cls]
    for lhs, rhs, out in large:
        assert lhs.endswith("bf16>") and rhs.endswith("bf16>") and out.endswith("f32>"), (lhs, rhs, out)


@pytest.mark.parametrize(
    ("cls", "options"), [(Gated, {}), (JumpReLU, {"bandwidth": 0.5, "initial_threshold": 0.3}), (Standard, {})]
)
def test_bfloat16_gradients_are_close(cls, options, context):
    sae = cls.initialise(jax.random.key(0), D, F, cls.Options(**options))
    x_BD = jax.random.normal(jax.random.key(1), (B, D)) + 10  # a mean far above the spread, as activations have
    sae = sae.replace(b_dec=jnp.full(D, 10.0))
    if cls is JumpReLU:
        sae = sae.replace(b_enc=-10.0 * sae.W_enc.sum(0))  # as if b_dec were subtracted, like the others

    def gradient(dtype):
        return jax.grad(lambda sae: sae.loss({"x": x_BD}, context(0.1, dtype))[0])(sae)

    for rough, exact in zip(jax.tree.leaves(gradient("bfloat16")), jax.tree.leaves(gradient("float32")), strict=True):
        assert rough.dtype == jnp.float32
        assert np.linalg.norm(rough - exact) < {JumpReLU: 0.1}.get(cls, 0.04) * np.linalg.norm(
            exact
        )  # gates near zero flip


def test_gradients_of_the_products(float64):
    """All of them, the input's too, against automatic differentiation of the plain product."""
    keys = jax.random.split(jax.random.key(0), 4)
    x, f = jax.random.normal(keys[0], (3, 5, D)), jax.random.normal(keys[1], (3, 5, F))
    c, W = jax.random.normal(keys[2], (D,)), jax.random.normal(keys[3], (D, F))
    pairs = [
        (linear.encode, lambda x, c, W: (x - c) @ W, (x, c, W)),
        (linear.decode, lambda f, W: f @ W, (f, W.T)),
    ]
    for ours, plain, arguments in pairs:
        value, pull = jax.vjp(ours, *arguments)
        plain_value, plain_pull = jax.vjp(plain, *arguments)
        np.testing.assert_allclose(value, plain_value, atol=1e-12)
        cotangent = jax.random.normal(jax.random.key(9), value.shape)
        for ours_g, plain_g in zip(pull(cotangent), plain_pull(cotangent), strict=True):
            np.testing.assert_allclose(ours_g, plain_g, atol=1e-11)


def test_row_norms_have_a_gradient_at_zero():
    W = jnp.array([[3.0, 4.0], [0.0, 0.0]])
    np.testing.assert_allclose(linear.row_norms(W), [5, 0])
    np.testing.assert_allclose(jax.grad(lambda W: linear.row_norms(W).sum())(W), [[0.6, 0.8], [0, 0]], rtol=1e-6)


def test_untied_options_make_w_mag():
    assert Gated.initialise(jax.random.key(0), D, F, GatedOptions(tied=False)).W_mag.shape == (D, F)
