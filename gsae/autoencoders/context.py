"""What a training loss is told beside the batch."""

import flax.struct
import jax


@flax.struct.dataclass
class Context:
    """The step's surroundings, the same for every architecture.

    Attributes:
        sparsity_coefficient: scalar array, the paper's lambda at this step (warm-up included), or k where k features
            are selected.
        key: PRNG key folded from (seed, step), for architectures that sample.
        dead_F: bool [F], the features that were silent for the dead window before this step; None outside training.
        train: whether this is a training step; some architectures encode differently then.
        progress: scalar, from 0 in the first update towards 1 in the last: updates made before this one / those of the
            run. What anneals over a run is a function of it; 1 outside training.
        branches: whether a `lax.cond` leaves out what is not needed; members that are mapped over a mesh compute both
            of its sides, so that it is better left out itself.
        compute_dtype: the name of the dtype of the operands of the large products; sums are float32 or wider.
    """

    sparsity_coefficient: jax.Array
    key: jax.Array
    dead_F: jax.Array | None = None
    progress: jax.Array | float = 1.0
    train: bool = flax.struct.field(pytree_node=False, default=True)
    branches: bool = flax.struct.field(pytree_node=False, default=True)
    compute_dtype: str = flax.struct.field(pytree_node=False, default="float32")
