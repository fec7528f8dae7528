"""The rows of a superblock, computed by the language model."""

import functools
from collections.abc import Callable, Sequence

import jax
import numpy as np
from flax import nnx

from gsae.activations.capture import DTYPES, program
from gsae.activations.fitting import Fit, fit
from gsae.activations.order import RowOrder, SuperblockRows
from gsae.activations.statistics import NotFinite
from gsae.activations.store import Identity
from gsae.activations.superblocks import GRADIENT
from gsae.errors import RunError, SettingError
from gsae.language_models.loading import LanguageModel
from gsae.language_models.placement import place
from gsae.language_models.sites import Site
from gsae.mesh import in_turn
from gsae.text.tokens import TokenStore
from gsae.throughput import count_flops

Rows = dict[str, np.ndarray]  # by name of a site, or of its gradients


class Forward:
    """Makes superblocks: one jitted forward pass per batch of sequences gives all the sites.

    Batch j is always sequences j * B to (j + 1) * B - 1 of the permuted order, whichever superblock asks for it, so a
    superblock is a pure function of its number, and the batch that two superblocks share is computed once when they
    are made one after the other. Several devices share a batch as `place` says. Rounding may depend on B and on
    the devices; rows and their order do not.

    Attributes:
        widths: W of every array of rows by name: the sites, then their gradients if they are wanted.
        order: which rows each superblock has.
        identity: what decides the rows; equal ones mean equal rows, whether they are kept in a store or made live.
        sequences_run: how many sequences have gone through the model so far.
    """

    @classmethod
    def of(
        cls,
        language_model: LanguageModel,
        token_store: TokenStore,
        sites: Sequence[Site],
        *,
        superblock_rows: int,
        max_rows: int | None = None,
        dtype: str = "bfloat16",
        seed: int = 0,
        batch_size: int = 0,
        devices: Sequence[jax.Device] | None = None,
        gradients: bool = False,
    ) -> "Forward":
        """That of the rows which `RowOrder` gives; what a store and a live run share, so that both have the same."""
        order = RowOrder(token_store, superblock_rows, seed, max_rows or None)
        return cls(
            language_model,
            token_store,
            order,
            sites,
            batch_size=batch_size,
            dtype=dtype,
            devices=devices,
            gradients=gradients,
        )

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
        gradients: bool = False,
    ):
        """Prepares the pass; nothing is computed yet.

        Args:
            language_model: its parameters' dtype is the dtype of the pass.
            token_store: where the order's sequences are.
            order: which rows each superblock has.
            sites: the places to read.
            batch_size: B, sequences in one pass; 0 for as many as are worth it and fit.
            dtype: of the rows, `bfloat16` or `float32`.
            devices: those that compute, of this process; None for its first. Split parameters bring their own.
            gradients: whether each site comes with the gradient of the language model's loss (`gradients.py`).

        Raises:
            SettingError: for no site, a site twice, a layer that the model does not have, another dtype, B < 0.
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
        if batch_size < 0:
            allowed = "must be a positive number of sequences, or 0 for as many as are worth it and fit"
            raise SettingError("config.activations.sequences_at_once", batch_size, allowed)
        widths = {str(site): language_model.model.site_width(site.name) for site in sites}
        self.widths = widths | ({name + GRADIENT: width for name, width in widths.items()} if gradients else {})
        self._model, self._sites = language_model.model, tuple(sites)
        self.order, self._token_store = order, token_store
        self._tokens, self._given_batch_size, self.dtype = token_store.tokens, batch_size, DTYPES[dtype]
        self._placement, self._gradients = place(language_model.model, devices), gradients
        graph, _ = nnx.split(language_model.model)
        self._capture = program(graph, tuple(sites), self.dtype, gradients)
        # Split parameters mean collectives, and the training may have its own on the same devices.
        self._start = in_turn(self._capture) if self._placement.split else self._capture
        compute_dtype = jax.tree.leaves(self._placement.parameters)[0].dtype
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
        self.sequences_run = 0

    @functools.cached_property
    def fitting(self) -> Fit:
        """B, and why."""
        if self._given_batch_size:
            return Fit(self._given_batch_size, "as config.activations.sequences_at_once says")
        sequences = -(-self.order.superblock_rows // self.context_length)
        dtype = self.identity.dtype
        return fit(self._model, self._sites, self._placement, self.context_length, sequences, dtype, self._gradients)

    @property
    def context_length(self) -> int:
        """T."""
        return self._tokens.shape[1]

    @property
    def devices(self) -> list[jax.Device]:
        """Those that compute."""
        return list(self._placement.batch.mesh.devices.flat)

    def flops(self) -> float:
        """FLOPs of the matrix products of one batch, over all devices."""
        arguments = (jax.ShapeDtypeStruct(array.shape, array.dtype) for array in self._inputs(0))
        return count_flops(self._capture.trace(self._placement.parameters, *arguments).jaxpr)

    def first_batch(self, k: int) -> int:
        """The number of the first batch that superblock k needs."""
        return int(self.order.superblock(k).sequence[0]) // self.fitting.sequences

    def compile(self) -> None:
        """Compiles the pass, so that the first batch takes no longer than others."""
        inputs = jax.device_put(self._inputs(0), self._placement.batch)
        self._capture.lower(self._placement.parameters, *inputs).compile()

    def _inputs(self, j: int) -> tuple[np.ndarray, np.ndarray]:
        size, parts = self.fitting.sequences, self._placement.parts
        ids = self.order.sequences[j * size : (j + 1) * size]
        shape = (-(-size // parts) * parts, self._tokens.shape[1])
        tokens_BT, scored_BT = np.zeros(shape, np.int32), np.zeros(shape, bool)
        tokens_BT[: len(ids)] = self._tokens[ids]
        if self._gradients:  # all that is not padding is a target, as in the evaluation
            scored_BT[: len(ids)] = self._token_store.documents_of(ids) >= 0
        return tokens_BT, scored_BT

    def batch(self, j: int) -> tuple[jax.Array, ...]:
        """Starts batch j, if it is not the newest one anyway; the arrays [B, T, W] may still be on their way."""
        if self._newest is None or self._newest[0] != j:
            inputs = jax.device_put(self._inputs(j), self._placement.batch)
            self._newest = j, self._start(self._placement.parameters, *inputs)
            self.sequences_run += len(self.order.sequences[j * self.fitting.sequences :][: self.fitting.sequences])
        return self._newest[1]

    def superblock(self, k: int, on_rows: Callable[[int], object] = lambda count: None) -> Rows:
        """The rows of superblock k at every site.

        Args:
            k: the number of the superblock.
            on_rows: told how many more rows are there, now and then.

        Returns:
            By name (see `widths`), [R, W] in the dtype of the rows.
        """
        plan = self.order.superblock(k)
        return self._run(plan, slice(0, len(plan.position)), plan.destination, on_rows)

    def shares(self, k: int, processes: int) -> list[np.ndarray]:
        """Where the rows that each of several processes makes belong in superblock k, by process: whole batches."""
        plan = self.order.superblock(k)
        return [plan.destination[part] for part in self._parts(plan, processes)]

    def share(
        self, k: int, process: int, processes: int, on_rows: Callable[[int], object] = lambda count: None
    ) -> Rows:
        """The rows that one of several processes makes, in the order of `shares`: [n, W] by name."""
        plan = self.order.superblock(k)
        part = self._parts(plan, processes)[process]
        return self._run(plan, part, np.arange(part.stop - part.start), on_rows)

    def _parts(self, plan: SuperblockRows, processes: int) -> list[slice]:
        """The rows of a plan, in stream order, divided among processes where a batch ends."""
        batch = plan.sequence // self.fitting.sequences
        numbers = np.arange(batch[0], batch[-1] + 2)
        first = numbers[len(numbers[:-1]) * np.arange(processes + 1) // processes]
        bounds = np.searchsorted(batch, first).tolist()
        return list(map(slice, bounds[:-1], bounds[1:]))

    def _run(
        self, plan: SuperblockRows, part: slice, destination: np.ndarray, on_rows: Callable[[int], object]
    ) -> Rows:
        """The rows `part` of a plan, each put where `destination` says."""
        rows = {name: np.empty((len(destination), width), self.dtype) for name, width in self.widths.items()}
        batch, slot = np.divmod(plan.sequence[part], self.fitting.sequences)
        if not len(batch):
            return rows
        source = slot * self._tokens.shape[1] + plan.position[part]
        numbers = range(int(batch[0]), int(batch[-1]) + 1)
        bounds = np.searchsorted(batch, [*numbers, numbers.stop])
        following = self.batch(numbers.start)
        for j, start, stop in zip(numbers, bounds[:-1], bounds[1:], strict=True):
            captured = following
            if j + 1 < numbers.stop:
                following = self.batch(j + 1)  # the device computes the next batch while the host places this one
            for name, array_BTW in zip(rows, captured, strict=True):
                flat = np.asarray(array_BTW).reshape(-1, self.widths[name])
                rows[name][destination[start:stop]] = flat[source[start:stop]]
            on_rows(int(stop - start))
        return rows

    def blamed(self, error: NotFinite, k: int) -> RunError:
        """The error with the sequence and the document that a row of superblock k came from."""
        found = self.order.provenance(k)
        sequence, position = (int(found[name][error.row]) for name in ("sequence_id", "position"))
        document = self._token_store.document_names[int(self._token_store.documents_of([sequence])[0, position])]
        where = f"sequence {sequence}, position {position}, of document {document!r}"
        return RunError(f"the language model's activation at {error.site} is not finite: {where}")
