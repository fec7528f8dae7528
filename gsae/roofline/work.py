"""What one member's update consists of, traced once; what any mesh makes of it is arithmetic.

The update is traced without a mesh, at a batch size that no other axis has: so an axis of every array in it is known to
be the batch B, the features F or neither, and what a device holds of the array follows from the sizes of the mesh. No
architecture is named: another one brings its own trace.
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gsae.autoencoders.registry import architecture
from gsae.memory import program_bytes
from gsae.mesh import alone
from gsae.throughput import Product, matrix_products
from gsae.training.groups import Group
from gsae.training.step import StepSettings, abstract_state, update_member

TRACED_ROWS = 251, 509  # primes: stand for B while it is traced
# Passes over a trained array in float32 beside the products that make its gradient: the gradient is read for its norm
# and for the update, the array and its second moment are read and written. Of unit vectors the part along them has to
# be known first, and their new length: three more.
UPDATE_PASSES, UNIT_NORM_PASSES = 6, 3
FEATURE_PASSES = 2  # over each [B, F] result of a product: activation functions, sums and masks, fused


class Share(NamedTuple):
    """What a device has of a member: rows of the batch, and features."""

    rows: float
    features: float


class Sum(NamedTuple):
    """An array that devices add up: along which axis of the mesh, and how many bytes of it each holds."""

    axis: str
    size: float


@dataclasses.dataclass(frozen=True)
class MemberWork:
    """One member's update.

    Attributes:
        group: the member's.
        activation_width: D.
        products: of the traced update.
        program: the traced update.
        state: shapes and item sizes of the member's arrays.
        trained: shapes of the trained arrays, each with whether its vectors are held at unit norm.
        compute_itemsize: bytes of an operand of the large products.
        rows, features: what stands for B and F in the shapes.
        parts: what stands for features, all of them or some.
    """

    group: Group
    activation_width: int
    products: tuple[Product, ...]
    program: Any
    state: tuple[tuple[tuple[int, ...], int], ...]
    trained: tuple[tuple[tuple[int, ...], bool], ...]
    compute_itemsize: int
    rows: int
    features: int
    parts: tuple[int, ...]

    @classmethod
    def of(cls, group: Group, activation_width: int, settings: StepSettings) -> "MemberWork":
        """Traces it; nothing is computed."""
        # An axis that is F, or a part of it, must not look like D.
        parts_of = functools.partial(architecture(group.architecture).feature_parts, options=group.options)
        features = next(n for n in itertools.count(group.width, group.width) if activation_width not in parts_of(n))
        parts = parts_of(features)
        rows = next(rows for rows in TRACED_ROWS if rows not in (activation_width, *parts))
        point = dataclasses.replace(group.points[0], width=features)
        member = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype),
            abstract_state(Group((point,)), activation_width, alone()),
        )
        number = jax.ShapeDtypeStruct((), jnp.float32)
        own = {"learning_rate": number, "seed": jax.ShapeDtypeStruct((), np.uint32)}
        x_BD = jax.ShapeDtypeStruct((rows, activation_width), jnp.float32)
        update = functools.partial(update_member, settings=settings)
        program = jax.make_jaxpr(update)(member, own, x_BD, jax.ShapeDtypeStruct((), np.int32))
        unit_norm = member.autoencoder.unit_norm_fields()
        return cls(
            group=group,
            activation_width=activation_width,
            products=tuple(matrix_products(program)),
            program=program,
            state=tuple((leaf.shape, leaf.dtype.itemsize) for leaf in jax.tree.leaves(member)),
            trained=tuple(
                (getattr(member.autoencoder, name).shape, name in unit_norm)
                for name in member.autoencoder.trained_fields()
            ),
            compute_itemsize=jnp.dtype(settings.compute_dtype).itemsize,
            rows=rows,
            features=features,
            parts=parts,
        )

    def flops(self, share: Share) -> float:
        """Of the matrix products, on one device."""
        return sum(
            2.0 * product.times * self._numbers(product.out, share) * self._numbers(product.contracted, share)
            for product in self.products
        )

    def memory_bytes(self, share: Share) -> float:
        """Bytes that go between a device and its memory: operands and results of products, the update, casts."""
        total = 0.0
        for product in self.products:
            operands = self._numbers(product.left, share) + self._numbers(product.right, share)
            result = 4 * self._numbers(product.out, share)
            total += product.times * (jnp.dtype(product.dtype).itemsize * operands + result)
            if self.rows in product.out and set(self.parts) & set(product.out):
                total += FEATURE_PASSES * result
        for shape, unit_norm in self.trained:
            passes = UPDATE_PASSES + UNIT_NORM_PASSES * unit_norm
            cast = 4 + self.compute_itemsize if len(shape) > 1 and self.compute_itemsize < 4 else 0
            total += (4 * passes + cast) * self._numbers(shape, share)
        return total

    def sums(self, share: Share, feature: str, data: str) -> list[Sum]:
        """What the devices that share the member add up: results of products over F or B, and vectors' gradients.

        Counts by which features are selected are left out: 31 numbers a row, each time.
        """
        found = []
        for product in self.products:
            for summed, axis in ((self.parts, feature), ((self.rows,), data)):
                if set(summed) & set(product.contracted):
                    found += product.times * [Sum(axis, 4 * self._numbers(product.out, share))]
        vectors = sum(self._numbers(shape, share) for shape, _ in self.trained if len(shape) == 1)
        return [*found, Sum(data, 4 * vectors)]

    def state_bytes(self, share: Share) -> float:
        """Parameters, second moments and counters."""
        return sum(itemsize * self._numbers(shape, share) for shape, itemsize in self.state)

    def update_bytes(self, share: Share) -> float:
        """What the update holds beside the state while it runs, at most (`memory.program_bytes`)."""
        return program_bytes(self.program, lambda array: array.dtype.itemsize * self._numbers(array.shape, share))

    def _numbers(self, shape: Sequence[int], share: Share) -> float:
        real = {part: share.features * part / self.features for part in self.parts} | {self.rows: share.rows}
        return math.prod(real.get(length, length) for length in shape)
