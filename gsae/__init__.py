"""gsae: trains sparse autoencoders on the activations of language models, in JAX, from a laptop to a pod."""

from typing import Any

__version__ = "0.1.0"
__all__ = ["import_rows", "load", "__version__"]


def load(path: Any) -> Any:
    """The autoencoder that a run or `gsae.autoencoders.saving.save` wrote to the directory `path`.

    `sae = gsae.load(path)`; then `sae.encode(x)` and `sae.decode(f)` on raw (not normalised) activations [..., D].
    """
    from gsae.autoencoders.saving import load as load_autoencoder  # jax is heavy: only when it is used

    return load_autoencoder(path)


def import_rows(batches: Any, path: Any, **settings: Any) -> Any:
    """Writes the rows that an iterator of arrays gives where a run finds them: `gsae.activations.row_stream`.

    `gsae.import_rows(arrays, "rows")`; then a run with `config.activations.source = "rows"` and `.store = "rows"`.
    """
    from gsae.activations.row_stream import import_rows as import_batches

    return import_batches(batches, path, **settings)
