"""gsae: trains sparse autoencoders on the activations of language models, in JAX, from a laptop to a pod."""

from typing import Any

__version__ = "0.1.0"
__all__ = ["import_rows", "load", "load_language_model", "__version__"]


def load(path: Any, *, revision: str = "main", subfolder: str = "") -> Any:
    """The autoencoder in a directory, or in a repository `owner/name` of the Hugging Face hub.

    What a run wrote, or SAELens, dictionary_learning or Gemma Scope: known by the files. `sae = gsae.load(path)`; then
    `sae.encode(x)` and `sae.decode(f)` on raw (not normalised) activations [..., D]; `sae.metadata` says where it is
    from.

    Args:
        path: a directory, an npz file, or a hub id.
        revision: branch, tag or commit of a hub id.
        subfolder: where in the directory or repository it is.
    """
    from gsae.interop.hub import load as load_autoencoder  # jax is heavy: only when it is used

    return load_autoencoder(path, revision, subfolder)


def load_language_model(name: str = "bundled", dtype: str = "float32", *, revision: str = "main") -> Any:
    """A language model to run with autoencoders in it: `gsae.interventions.model.LanguageModel`.

    `lm = gsae.load_language_model()`; then `lm.run_with(sae, tokens)`, `lm.generate(...)`.

    Args:
        name: "bundled", a Hugging Face directory, or a hub id.
        dtype: of parameters and computation.
        revision: branch, tag or commit of a hub id.
    """
    from gsae.interventions.model import load_language_model as load_model

    return load_model(name, dtype, revision=revision)


def import_rows(batches: Any, path: Any, **settings: Any) -> Any:
    """Writes the rows that an iterator of arrays gives where a run finds them: `gsae.activations.row_stream`.

    `gsae.import_rows(arrays, "rows")`; then a run with `config.activations.source = "rows"` and `.store = "rows"`.
    """
    from gsae.activations.row_stream import import_rows as import_batches

    return import_batches(batches, path, **settings)
