import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gsae.language_models.attention_blocks import attend_in_blocks


def plain(q, k, v, *, scale, window=None, soft_cap=None, seen_BT=None):
    """The formula, all pairs at once, in float64."""
    q, k, v = (np.asarray(x, np.float64) for x in (q, k, v))
    k, v = (np.repeat(x, q.shape[2] // x.shape[2], axis=2) for x in (k, v))
    logits = np.einsum("btnh,bsnh->bnts", q, k) * scale
    if soft_cap is not None:
        logits = soft_cap * np.tanh(logits / soft_cap)
    distance = np.arange(q.shape[1])[:, None] - np.arange(q.shape[1])
    visible = (distance >= 0) & (distance < (window or q.shape[1]))
    visible = visible & (True if seen_BT is None else np.asarray(seen_BT)[:, None, None, :])
    weights = np.where(visible, np.exp(logits - logits.max(-1, keepdims=True)), 0)
    return np.einsum("bnts,bsnh->btnh", weights / weights.sum(-1, keepdims=True).clip(1e-300), v)


def operands(length, heads=4, key_heads=4, width=8, dtype=jnp.float32, sequences=2):
    generator = np.random.default_rng(length)
    shapes = [(sequences, length, n, width) for n in (heads, key_heads, key_heads)]
    return [jnp.asarray(2 * generator.standard_normal(shape), dtype) for shape in shapes]


@pytest.mark.parametrize(
    ("length", "block", "key_heads", "options"),
    [
        (64, None, 4, {}),
        (64, 16, 4, {}),
        (64, 64, 2, {"window": 9}),
        (61, 16, 1, {"soft_cap": 3.0}),
        (200, 8, 2, {}),  # more blocks than sections
        (200, 8, 2, {"window": 20}),
        (203, 8, 4, {"window": 1}),
        (203, 16, 2, {"window": 500, "soft_cap": 5.0}),
        (100, 16, 4, {"window": 17, "seen_BT": True}),
        (100, 7, 2, {"seen_BT": True}),
    ],
)
@pytest.mark.parametrize("scale", [0.125, 0.3])
def test_blocks_give_the_plain_formula(length, block, key_heads, options, scale):
    q, k, v = operands(length, key_heads=key_heads)
    if "seen_BT" in options:  # left-padded, right-padded
        seen = np.ones((2, length), bool)
        seen[0, : length // 3], seen[1, -length // 4 :] = False, False
        options = options | {"seen_BT": jnp.asarray(seen)}
    found = jax.jit(lambda *args: attend_in_blocks(*args, scale=scale, block=block, **options))(q, k, v)
    expected = plain(q, k, v, scale=scale, **options)
    assert np.isfinite(found).all()
    some_key = np.ones((2, length), bool)
    if "seen_BT" in options:  # queries that see no key may give anything
        distance = np.arange(length)[:, None] - np.arange(length)
        local = (distance >= 0) & (distance < options.get("window", length))
        some_key = (local & np.asarray(options["seen_BT"])[:, None]).any(-1)
    np.testing.assert_allclose(np.asarray(found)[some_key], expected[some_key], rtol=0, atol=1e-5)


def test_bfloat16_rounds_once():
    q, k, v = operands(96, dtype=jnp.bfloat16)
    found = jax.jit(lambda *args: attend_in_blocks(*args, scale=0.25, block=16))(q, k, v)
    assert found.dtype == jnp.bfloat16
    expected = plain(q, k, v, scale=0.25)
    np.testing.assert_allclose(np.asarray(found, np.float64), expected, rtol=2**-7, atol=2**-6)


def test_gradients_are_those_of_one_block():
    q, k, v = operands(72, key_heads=2)
    weight = jnp.asarray(np.random.default_rng(1).standard_normal(q.shape), jnp.float32)

    def gradients(block, window):
        def total(*args):
            return (attend_in_blocks(*args, scale=0.3, window=window, block=block) * weight).sum()

        return jax.jit(jax.grad(total, (0, 1, 2)))(q, k, v)

    for window in (None, 11):
        for found, expected in zip(gradients(4, window), gradients(72, window), strict=True):
            np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("options", [{}, {"window": 1024}, {"soft_cap": 20.0}])
def test_no_array_over_all_pairs_of_positions_exists(options):
    length, heads = 8192, 4
    q, k, v = (jax.ShapeDtypeStruct((1, length, n, 64), jnp.float32) for n in (heads, 2, 2))
    attend = functools.partial(attend_in_blocks, scale=0.125, **options)
    pairs = 4 * heads * length * length
    for program in (attend, jax.grad(lambda *args: attend(*args).sum(), (0, 1, 2))):
        # The arrays are laid out before LLVM's optimisations, which are left out: they take a third of the time.
        compiled = jax.jit(program).lower(q, k, v).compile(compiler_options={"xla_backend_optimization_level": 0})
        assert compiled.memory_analysis().temp_size_in_bytes < pairs / 4


def test_what_causality_and_windows_hide_is_not_multiplied():
    length, flops = 4096, {}
    q, k, v = (jax.ShapeDtypeStruct((1, length, 2, 64), jnp.float32) for _ in range(3))
    for window in (None, 256):
        jaxpr = jax.make_jaxpr(lambda *args, window=window: attend_in_blocks(*args, scale=1.0, window=window, block=64))
        flops[window] = sum(_products(jaxpr(q, k, v).jaxpr))
    everything = 2 * 2 * 2 * 64 * length * length
    assert flops[None] <= 9 / 16 * everything
    assert flops[256] <= (256 + 64) / length * everything


def _products(jaxpr, times=1):
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            size = np.prod([equation.invars[0].aval.shape[axis] for axis in contracted])
            yield 2 * times * size * np.prod(equation.outvars[0].aval.shape)
        inner = times * equation.params.get("length", 1) if equation.primitive.name == "scan" else times
        for value in equation.params.values():
            if hasattr(value, "eqns") or hasattr(value, "jaxpr"):
                yield from _products(getattr(value, "jaxpr", value), inner)
