"""The rows of a superblock, computed by the language model."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from gsae.activations.order import RowOrder
from gsae.activations.statistics import NotFinite
from gsae.activations.store import Identity
from gsae.errors import RunError, SettingError
from gsae.language_models.loading import LanguageModel
from gsae.language_models.sites import Site, last_layer
from gsae.mesh import DATA
from gsae.text.tokens import TokenStore

DTYPES = {"bfloat16": jnp.dtype(jnp.bfloat16), "float32": jnp.dtype(jnp.float32)}


@functools.lru_cache(maxsize=4)  # a model that harvests twice compiles once
def _capture(graph: nnx.GraphDef, sites: tuple[Site, ...], dtype: jnp.dtype) -> jax.stages.Wrapped:
    @jax.jit
    def capture(parameters: nnx.State, tokens_BT: jax.Array) -> tuple[jax.Array, ...]:
        model = nnx.merge(graph, parameters)
        _, captured = model.blocks(model.embed(tokens_BT), 0, last_layer(sites) + 1, capture=sites)
        return tuple(captured[site].astype(dtype) for site in sites)

    return capture


def traced(language_model: LanguageModel, sites: Sequence[Site], shape: tuple[int, int], dtype: str) -> Any:
    """The pass over token ids of a shape [B, T] as a traced program, of which nothing is computed."""
    graph, parameters = nnx.split(language_model.model)
    tokens_BT = jax.ShapeDtypeStruct(shape, np.int32)
    return _capture(graph, tuple(sites), DTYPES[dtype]).trace(parameters, tokens_BT)


class Forward:
    """Makes superblocks: one jitted forward pass per batch of sequences gives all the sites.

    Batch j is always sequences j * B to (j + 1) * B - 1 of the permuted order, whichever superblock asks for it, so a
    superblock is a pure function of its number, and the batch that two superblocks share is computed once when they
    are made one after the other. Several devices take equal parts of a batch, every one with a copy of the parameters
    and without a word to the others. Rounding may depend on B and on the devices; rows and their order do not.

    Attributes:
        widths: W of every site by name.
        order: which rows each superblock has.
        identity: what decides the rows; equal ones mean equal rows, whether they are kept in a store or made live.
    """

    def __init__(
        self,
        language_model: LanguageModel,
        token_store: TokenStore,
        order: RowOrder,
        sites: Sequence[Site],
        *,
        batch_size: int,
        dtype: str,
        devices: Sequence[jax.Device] | None = None,
    ):
        """Prepares the pass; nothing is computed yet.

        Args:
            language_model: its parameters' dtype is the dtype of the pass.
            token_store: where the order's sequences are.
            order: which rows each superblock has.
            sites: the places to read.
            batch_size: B, sequences in one pass.
            dtype: of the rows, `bfloat16` or `float32`.
            devices: those that compute, of this process; None for its first.

        Raises:
            SettingError: for no site, a site twice, a layer that the model does not have, another dtype, B < 1.
        """
        settings = language_model.model.settings
        if not sites or len(set(sites)) < len(sites):
            raise SettingError("config.sweep", [str(site) for site in sites], "must be different sites")
        for site in sites:
            if site.layer >= settings.num_layers:
                allowed = f"the language model has layers 0 to {settings.num_layers - 1}"
                raise SettingError("config.sweep", str(site), allowed)
        if dtype not in DTYPES:
            raise SettingError("config.activations.dtype", dtype, f"must be one of {', '.join(DTYPES)}")
        if batch_size < 1:
            raise SettingError(
                "config.activations.sequences_at_once", batch_size, "must be a positive number of sequences"
            )
        self.widths = {str(site): language_model.model.site_width(site.name) for site in sites}
        self.order, self._token_store = order, token_store
        self._tokens, self._batch_size, self._dtype = token_store.tokens, batch_size, DTYPES[dtype]
        # Its own mesh, without explicit axes: lookups in the embedding refuse them.
        mesh = Mesh(np.asarray(devices or jax.local_devices()[:1]), (DATA,))
        self._sharding, self._padded_size = (
            NamedSharding(mesh, PartitionSpec(DATA)),
            -(-batch_size // mesh.size) * mesh.size,
        )
        graph, parameters = nnx.split(language_model.model)
        self._parameters = jax.device_put(parameters, NamedSharding(mesh, PartitionSpec()))
        self._capture = _capture(graph, tuple(sites), self._dtype)
        compute_dtype = jax.tree.leaves(self._parameters)[0].dtype
        self.identity = Identity(
            sites=self.widths,
            dtype=dtype,
            superblock_rows=order.superblock_rows,
            num_superblocks=order.num_superblocks,
            seed=order.seed,
            language_model=f"{language_model.fingerprint} in {compute_dtype}",
            tokens=token_store.fingerprint,
        )
        self._newest: tuple[int, tuple[jax.Array, ...]] | None = None

    def _batch(self, j: int) -> tuple[jax.Array, ...]:
        """Starts batch j, if it is not the newest one anyway; the arrays [B, T, W] may still be on their way."""
        if self._newest is None or self._newest[0] != j:
            ids = self.order.sequences[j * self._batch_size : (j + 1) * self._batch_size]
            tokens_BT = np.zeros((self._padded_size, self._tokens.shape[1]), np.int32)
            tokens_BT[: len(ids)] = self._tokens[ids]
            self._newest = j, self._capture(self._parameters, jax.device_put(tokens_BT, self._sharding))
        return self._newest[1]

    def superblock(self, k: int, on_rows: Callable[[int], object] = lambda count: None) -> dict[str, np.ndarray]:
        """The rows of superblock k at every site.

        Args:
            k: the number of the superblock.
            on_rows: told how many more rows are there, now and then.

        Returns:
            By site's name, [R, W] in the dtype of the rows.
        """
        plan = self.order.superblock(k)
        rows = {name: np.empty((len(plan.position), width), self._dtype) for name, width in self.widths.items()}
        batch, slot = np.divmod(plan.sequence, self._batch_size)
        source = slot * self._tokens.shape[1] + plan.position
        numbers = range(int(batch[0]), int(batch[-1]) + 1)
        bounds = np.searchsorted(batch, [*numbers, numbers.stop])
        following = self._batch(numbers.start)
        for j, start, stop in zip(numbers, bounds[:-1], bounds[1:], strict=True):
            captured = following
            if j + 1 < numbers.stop:
                following = self._batch(j + 1)  # the device computes the next batch while the host places this one
            for name, array_BTW in zip(rows, captured, strict=True):
                flat = np.asarray(array_BTW).reshape(-1, self.widths[name])
                rows[name][plan.destination[start:stop]] = flat[source[start:stop]]
            on_rows(int(stop - start))
        return rows

    def blamed(self, error: NotFinite, k: int) -> RunError:
        """The error with the sequence and the document that a row of superblock k came from."""
        found = self.order.provenance(k)
        sequence, position = (int(found[name][error.row]) for name in ("sequence_id", "position"))
        document = self._token_store.document_names[int(self._token_store.documents_of([sequence])[0, position])]
        where = f"sequence {sequence}, position {position}, of document {document!r}"
        return RunError(f"the language model's activation at {error.site} is not finite: {where}")
