"""The two large products, [B, D] x [D, F] and [B, F] x [F, D]: their dtypes, their gradients and their sharding.

This is the one place of the room that knows the mesh. Inside an explicit mesh of `gsae.mesh` the products say where
their results live (tokens over `data`, features over `feature`); without one they are plain products, so that an
autoencoder works in a notebook.

The gradients are written out because automatic differentiation of `x.astype(bfloat16) @ W.astype(bfloat16)` makes the
backward products float32 x float32 and sums weight gradients over devices in bfloat16. Here the operands of all
products, cotangents included, are in the compute dtype, and every sum, on a device or over devices, is float32
(float64 where the arrays are).
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, PartitionSpec

from gsae import mesh


class _Layout(NamedTuple):
    """Mesh axes over which a product lhs[rows, inner] @ rhs[inner, columns] is split."""

    rows: str | None
    inner: str | None
    columns: str | None


_ENCODE = _Layout(rows=mesh.DATA, inner=None, columns=mesh.FEATURE)
_DECODE = _Layout(rows=mesh.DATA, inner=mesh.FEATURE, columns=None)


def encode(x: jax.Array, centre_D: jax.Array, W_DF: jax.Array, compute_dtype: str | None = None) -> jax.Array:
    """(x - centre) W, in two backward products fewer than the textbook's form has.

    The gradient of the centre, -(sum over rows of the cotangent) W^T, needs a vector-matrix product only: the sum comes
    first. Differentiating `(x - centre) @ W` would form the whole [B, D] cotangent of the difference to sum it after.

    Args:
        x: [..., D]. Its own gradient is a further product, which is dropped by the compiler where nobody asks for it.
        centre_D: [D], subtracted before anything is rounded to the compute dtype.
        W_DF: [D, F].
        compute_dtype: dtype of the products' operands; by default that of the arrays.

    Returns:
        [..., F], float32 or wider; split over `data` and `feature` inside a mesh.
    """
    return _encode(x, centre_D, W_DF, _compute_dtype(compute_dtype, x, W_DF))


def decode(f: jax.Array, W_FD: jax.Array, compute_dtype: str | None = None) -> jax.Array:
    """f W: [..., F] x [F, D] -> [..., D], float32 or wider; inside a mesh summed over `feature`, split over `data`."""
    return _decode(f, W_FD, _compute_dtype(compute_dtype, f, W_FD))


def row_norms(W_FD: jax.Array) -> jax.Array:
    """The L2 norm of every row, [F, D] -> [F], with gradient zero (not NaN) where a row is zero."""
    squared_F = jnp.sum(W_FD * W_FD, axis=-1)
    positive_F = squared_F > 0
    return jnp.where(positive_F, jnp.sqrt(jnp.where(positive_F, squared_F, 1)), 0)


def normal_like(key: jax.Array, z: jax.Array) -> jax.Array:
    """Standard normal numbers of the shape of features z [..., F], each made where z has its own.

    They follow from the key and their place in the array: the same on every mesh.
    """
    where = _out_sharding(*_rows(z, mesh.DATA), mesh.FEATURE)
    return jax.random.normal(key, z.shape, z.dtype, out_sharding=where)


def partition_spec(feature_axis: int | None, ndim: int) -> PartitionSpec:
    """Where one member's array of `ndim` axes lives, given which of them is F: that axis is split over `feature`."""
    return PartitionSpec(*(mesh.FEATURE if axis == feature_axis else None for axis in range(ndim)))


def _compute_dtype(name: str | None, *arrays: jax.Array) -> str:
    return jnp.dtype(name or jnp.result_type(*arrays)).name


def _accumulate(dtype: jnp.dtype | str) -> jnp.dtype:
    return jnp.promote_types(dtype, jnp.float32)


def _out_sharding(*axes: str | None) -> PartitionSpec | None:
    """The sharding to ask for, or None where there is no explicit mesh with our axes (a notebook, a plain jit)."""
    surroundings = jax.sharding.get_abstract_mesh()
    ours = dict(zip(surroundings.axis_names, surroundings.axis_types, strict=True)) if not surroundings.empty else {}
    if any(ours.get(axis) != AxisType.Explicit for axis in (mesh.DATA, mesh.FEATURE)):
        return None
    return PartitionSpec(*axes)


def _product(lhs: jax.Array, rhs: jax.Array, contract: tuple[int, int], *out_axes: str | None) -> jax.Array:
    """A product of two arrays of one dtype, contracted over an axis of each, summed in float32 or wider."""
    return jax.lax.dot_general(
        lhs,
        rhs,
        (((contract[0],), (contract[1],)), ((), ())),
        preferred_element_type=_accumulate(lhs.dtype),
        out_sharding=_out_sharding(*out_axes),
    )


def _forward(lhs: jax.Array, rhs: jax.Array, layout: _Layout) -> jax.Array:
    """lhs [..., inner] @ rhs [inner, columns]."""
    return _product(lhs, rhs, (lhs.ndim - 1, 0), *_rows(lhs, layout.rows), layout.columns)


def _lhs_gradient(g: jax.Array, rhs: jax.Array, layout: _Layout) -> jax.Array:
    """Cotangent [..., columns] -> [..., inner]."""
    return _product(g, rhs, (g.ndim - 1, 1), *_rows(g, layout.rows), layout.inner)


def _rhs_gradient(lhs: jax.Array, g: jax.Array, layout: _Layout) -> jax.Array:
    """[..., inner] and cotangent [..., columns] -> [inner, columns], summed over all rows."""
    default = functools.partial(_sum_of_outer_products, inner=layout.inner, columns=layout.columns)
    cpu = _encoder_gradient_on_cpu if layout is _ENCODE else _decoder_gradient_on_cpu
    return jax.lax.platform_dependent(lhs, g, cpu=cpu if lhs.ndim == 2 else default, default=default)


def _sum_of_outer_products(lhs, g, inner, columns):
    rows = tuple(range(lhs.ndim - 1))
    return jax.lax.dot_general(
        lhs,
        g,
        ((rows, rows), ((), ())),
        preferred_element_type=_accumulate(lhs.dtype),
        out_sharding=_out_sharding(inner, columns),
    )


def _encoder_gradient_on_cpu(x_BD, g_BF):
    """x^T g with x transposed first: XLA's CPU backend multiplies a transposed left operand at half its speed."""
    x_DB = jax.lax.optimization_barrier(x_BD.T)
    return _product(x_DB, g_BF, (1, 0), _ENCODE.inner, _ENCODE.columns)


def _decoder_gradient_on_cpu(f_BF, g_BD):
    """f^T g as (g^T f)^T, for the same reason: of the two, g is the small one to transpose."""
    g_DB = jax.lax.optimization_barrier(g_BD.T)
    gradient_DF = _product(g_DB, f_BF, (1, 0), _DECODE.columns, _DECODE.inner)
    return jax.lax.optimization_barrier(gradient_DF).T


def _rows(array: jax.Array, axis: str | None) -> tuple[str | None, ...]:
    """Mesh axes of an array's leading dimensions: the first is split over `axis`, the others are whole."""
    return (axis, *(None,) * (array.ndim - 2)) if array.ndim > 1 else ()


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _encode(x, centre_D, W_DF, dtype):
    return _encode_forward(x, centre_D, W_DF, dtype)[0]


def _encode_forward(x, centre_D, W_DF, dtype):
    centred = (x - centre_D).astype(dtype)
    rounded_DF = W_DF.astype(dtype)
    like = jnp.zeros((), x.dtype), jnp.zeros((), W_DF.dtype), jnp.zeros((), centre_D.dtype)
    return _forward(centred, rounded_DF, _ENCODE), (centred, rounded_DF, like)


def _encode_backward(dtype, residuals, g):
    centred, W_DF, (like_x, like_W, like_centre) = residuals
    total_F = jnp.sum(g, axis=tuple(range(g.ndim - 1)))
    centre_gradient_D = -_product(W_DF.astype(total_F.dtype), total_F, (1, 0), None)
    g = g.astype(dtype)
    return (
        _lhs_gradient(g, W_DF, _ENCODE).astype(like_x.dtype),
        centre_gradient_D.astype(like_centre.dtype),
        _rhs_gradient(centred, g, _ENCODE).astype(like_W.dtype),
    )


_encode.defvjp(_encode_forward, _encode_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _decode(f, W_FD, dtype):
    return _decode_forward(f, W_FD, dtype)[0]


def _decode_forward(f, W_FD, dtype):
    like = jnp.zeros((), f.dtype), jnp.zeros((), W_FD.dtype)
    f, W_FD = f.astype(dtype), W_FD.astype(dtype)
    return _forward(f, W_FD, _DECODE), (f, W_FD, like)


def _decode_backward(dtype, residuals, g):
    f, W_FD, (like_f, like_W) = residuals
    g = g.astype(dtype)
    return _lhs_gradient(g, W_FD, _DECODE).astype(like_f.dtype), _rhs_gradient(f, g, _DECODE).astype(like_W.dtype)


_decode.defvjp(_decode_forward, _decode_backward)
