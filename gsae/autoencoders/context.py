"""What a training loss is told beside the batch."""

import flax.struct
import jax


@flax.struct.dataclass
class Context:
    """The step's surroundings, the same for every architecture.

    Attributes:
        sparsity_coefficient: scalar array, the paper's lambda at this step (warm-up included).
        key: PRNG key folded from (seed, step), for architectures that sample.
        train: whether this is a training step; some architectures encode differently then.
        compute_dtype: the name of the dtype of the operands of the large products; sums are float32 or wider.
    """

    sparsity_coefficient: jax.Array
    key: jax.Array
    train: bool = flax.struct.field(pytree_node=False, default=True)
    compute_dtype: str = flax.struct.field(pytree_node=False, default="float32")
