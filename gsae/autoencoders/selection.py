"""Which numbers are among the largest, by counting: nothing is sorted, and nothing is gathered where F or B is split.

Of each row, of each feature's column, or of all; and the largest of each row that together come nearest to a sum.

The bits of a float32 that is not negative order as the number does. Thirty-one times the range of bits in which the
threshold lies is halved by counting how many numbers reach its middle: plain reductions, whose results on a mesh are
sums over devices of one integer for each row, or of one in all. How many are kept is an array: it can differ from
member to member of one program.

Equal numbers at the threshold are all kept, so that more than were asked for can be; a sort would keep those that come
first. Zeros never count as kept: whoever asks for more than there are positive numbers gets all of these.
"""

import jax
import jax.numpy as jnp

BITS = 31  # of a float32 without its sign


def largest_of_each(scores: jax.Array, count: jax.Array) -> jax.Array:
    """Which of each row's scores are among its `count` largest, and positive: bool [..., F].

    Args:
        scores: [..., F], not negative.
        count: integer scalar.
    """
    return _reach(scores, count, (scores.ndim - 1,))


def largest_of_all(scores: jax.Array, count: jax.Array) -> jax.Array:
    """Which scores are among the `count` largest of the whole array, and positive: bool, of the scores' shape."""
    return _reach(scores, count, tuple(range(scores.ndim)))


def largest_of_each_feature(scores: jax.Array, count_F: jax.Array) -> jax.Array:
    """Which scores [..., F] are among the `count_F` largest of their feature's, over all rows, and positive: bool."""
    return _reach(scores, count_F, tuple(range(scores.ndim - 1)))


def nearest_to_norm(squares: jax.Array, norm: jax.Array) -> jax.Array:
    """Which of each row's numbers to keep, largest first, so that the root of their sum is nearest to `norm`: bool.

    At least one is kept where one is positive and the norm is; of two sums that are equally near, the smaller one.

    Args:
        squares: [..., F], not negative.
        norm: [...], not negative.
    """
    squares, norm = jax.lax.stop_gradient((squares, norm[..., None]))
    bits = jax.lax.bitcast_convert_type(squares.astype(jnp.float32), jnp.int32)

    def root(kept: jax.Array) -> jax.Array:
        return jnp.sqrt(jnp.sum(jnp.where(kept, squares, 0), axis=-1, keepdims=True))

    def digit(i: jax.Array, low: jax.Array) -> jax.Array:
        tried = low | jnp.left_shift(jnp.int32(1), BITS - 1 - i)
        return jnp.where(root(bits >= tried) >= norm, tried, low)

    # The largest bits at which the sum reaches the norm; 0 where all together do not.
    low = jax.lax.fori_loop(0, BITS, digit, jnp.zeros_like(root(bits >= 0), jnp.int32))
    more, fewer = root(bits >= low), root(bits > low)
    fewer_is_nearer = (jnp.abs(fewer - norm) <= jnp.abs(more - norm)) & (fewer > 0)
    return jnp.where(fewer_is_nearer, bits > low, bits >= low) & (bits > 0)


def _reach(scores: jax.Array, count: jax.Array, axes: tuple[int, ...]) -> jax.Array:
    scores = jax.lax.stop_gradient(scores)
    bits = jax.lax.bitcast_convert_type(scores.astype(jnp.float32), jnp.int32)
    count = jnp.asarray(count, jnp.int32)
    # The largest bits that at least `count` numbers reach; the least positive ones where there are fewer.
    low = jnp.zeros_like(jnp.sum(bits, axis=axes, keepdims=True))

    def digit(i: jax.Array, low: jax.Array) -> jax.Array:
        tried = low | jnp.left_shift(jnp.int32(1), BITS - 1 - i)
        enough = jnp.sum(bits >= tried, axis=axes, keepdims=True, dtype=jnp.int32) >= count
        return jnp.where(enough, tried, low)

    low = jax.lax.fori_loop(0, BITS, digit, low)
    return (bits >= low) & (bits > 0) & (count > 0)
