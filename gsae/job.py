"""One run in one workdir: its configuration, what its stages share, and where everything is kept."""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from gsae import artifacts, recipe, rounds
from gsae.activations.row_import import HELD_OUT, TRAIN
from gsae.activations.rows import Rows
from gsae.autoencoders.registry import architecture
from gsae.config import Config
from gsae.errors import RunError, SettingError
from gsae.language_models.parameters import count
from gsae.language_models.settings import Settings
from gsae.language_models.sites import Site, names_of, site_width
from gsae.mesh import make_mesh, split_over
from gsae.places import Place, place
from gsae.processes.waiting import wait_for_all
from gsae.text.tokens import TokenStore
from gsae.training.checkpoints import shelf
from gsae.training.groups import Group, Point, group_points

CONFIG = "config.json"
LANGUAGE_MODEL = "language_model.json"  # which one the names in the configuration meant when the workdir was made
SECONDS = "seconds.json"  # what each stage took so far
STATISTICS = "statistics.json"  # of rows that are made live; a store has its own


class Job:
    """One run in one workdir: its configuration and what its stages share."""

    def __init__(self, config: Config, workdir: Path, command: str):
        self.config, self.workdir, self.command = config, workdir, command
        self.seconds: dict[str, float] = {}
        self._tokens: dict[str, TokenStore] = {}

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes what one process has to write, and the only one that prints."""
        return jax.process_index() == 0

    @functools.cached_property
    def mesh(self) -> Mesh:
        """The mesh that the sweep trains on."""
        sizes, reserved = self.config.mesh, self.config.activations.devices
        given = (sizes.sweep, sizes.data, sizes.feature)
        sweep, data, feature = self._chosen(given) if 0 in given else given
        return make_mesh(sweep, data, feature, reserved)

    def _chosen(self, given: tuple[int, int, int]) -> Sequence[int]:
        """Sizes of a mesh of all devices that are not reserved, those that are given kept."""
        from gsae.roofline.choice import choose

        taken = 0
        if self.has_language_model:
            settings = self.config.language_model
            itemsize = 2 if settings.dtype in ("bfloat16", "float16") else 4
            taken = itemsize * count(self._language_model_settings) // settings.parts
        return choose(
            self.points,
            {site: self._site_width(site) for site in self.sites},
            recipe.step_settings(self.config),
            devices=jax.devices()[: jax.device_count() - self.config.activations.devices],
            row_itemsize=2 if self.config.activations.dtype == "bfloat16" else 4,
            taken=taken,
            given=given,
        )

    def _site_width(self, site: str) -> int:
        if self.has_language_model:
            return site_width(self._language_model_settings, Site.parse(site).name)
        return self.activations.width(site) if self.rows_are_imported else self.rows.width(site)

    @property
    def language_model_devices(self) -> list[jax.Device]:
        """The devices that make the rows: those of the mesh, or as many beside it as the settings say."""
        own = self.config.activations.devices
        chosen = jax.devices()[-own:] if own else list(self.mesh.devices.flat)
        return [device for device in chosen if device.process_index == jax.process_index()]

    @functools.cached_property
    def sequences_at_once(self) -> int:
        """Sequences in one pass that makes rows live: as many in all processes, which share a superblock's batches."""
        from gsae.activations.fitting import fit
        from gsae.language_models.placement import place

        settings, length = self.config.activations, self.config.text.context_length
        sequences = settings.sequences_at_once
        if not sequences:
            placement = place(self.language_model.model, self.language_model_devices)
            most = -(-settings.superblock_rows // length)
            fitting = fit(
                self.language_model.model,
                self.language_model_sites,
                placement,
                length,
                most,
                settings.dtype,
                settings.gradients,
            )
            sequences = fitting.sequences
        if jax.process_count() > 1:
            sequences = int(np.min(multihost_utils.process_allgather(np.int32(sequences))))
        return sequences

    @functools.cached_property
    def language_model(self) -> Any:
        """The language model under study: the very one that the workdir was made with, also when a branch has moved."""
        from gsae.language_models.pinned import load_pinned

        settings = self.config.language_model
        devices = split_over(self.language_model_devices, settings.parts) if settings.parts > 1 else None
        record = self.workdir / LANGUAGE_MODEL
        return load_pinned(record, settings.name, settings.dtype, devices, revision=settings.revision)

    @property
    def has_language_model(self) -> bool:
        """Whether a language model makes and judges the activations; rows from elsewhere are judged without one."""
        return self.config.activations.source != "rows"

    @functools.cached_property
    def _language_model_settings(self) -> Settings:
        """What the language model is; one that is split over devices is not loaded for it: they are not known yet."""
        from gsae.language_models.loading import describe
        from gsae.language_models.pinned import recorded_commit

        settings = self.config.language_model
        if settings.parts == 1:
            return self.language_model.settings
        return describe(settings.name, recorded_commit(self.workdir / LANGUAGE_MODEL) or settings.revision)

    @functools.cached_property
    def points(self) -> list[Point]:
        """The points of the sweep."""
        if self.has_language_model:
            settings = self._language_model_settings
            check = functools.partial(recipe.site_of_layers, settings.num_layers, names_of(settings))
        else:
            sites = self.activations.sites if self.rows_are_imported else self.rows.sites
            check = functools.partial(recipe.site_of_rows, sites)
        return recipe.points(self.config, check)

    @functools.cached_property
    def groups(self) -> list[Group]:
        """The points, grouped by program."""
        return group_points(self.points, self.mesh.shape["sweep"])

    def tasks(self) -> tuple[list[rounds.Round], list[rounds.Task]]:
        """The rounds of this workdir, and those that are to be trained now; they are recorded before that."""
        begun = rounds.read(self.workdir)
        record, tasks = rounds.plan(
            begun,
            self.points,
            {point.name: self.training_identity(point) for point in self.points},
            self.weights_path,
            lambda r: bool(shelf(self.round_path(self.checkpoints_path, r)).steps()),
        )
        wait_for_all("rounds")  # all have read what one of them now writes
        if self.is_first and [r.plain() for r in record] != [r.plain() for r in begun]:
            rounds.write(self.workdir, record)
        return record, tasks

    def training_identity(self, point: Point) -> str:
        """The fingerprint of what decides a point's weights, beside its steps."""
        rows = self.activations.identity.fingerprint_of(point.site)
        return artifacts.fingerprint(recipe.identity(self.config, point, rows))

    @staticmethod
    def round_path(path: Any, r: rounds.Round) -> Any:
        """What a round has of its own below a directory of the run."""
        return path / r.folder if r.folder else path

    def groups_of(self, r: rounds.Round) -> list[Group]:
        """The points of a round, grouped by program."""
        return group_points(r.points, self.mesh.shape["sweep"])

    @property
    def sites(self) -> tuple[str, ...]:
        """The sites of all points, in the order in which the sweep names them."""
        return tuple(dict.fromkeys(point.site for point in self.points))

    @property
    def language_model_sites(self) -> tuple[Site, ...]:
        """The same as places of the language model."""
        return tuple(Site.parse(site) for site in self.sites)

    @property
    def harvested_sites(self) -> tuple[Site, ...]:
        """The sites that the store is to have: those of the points, or what a store that has them all has."""
        manifest = artifacts.read_manifest(self.activations_path)
        stored = self._stored().sites if manifest is not None else ()
        return tuple(map(Site.parse, stored)) if set(self.sites) <= set(stored) else self.language_model_sites

    def tokens(self, part: str) -> TokenStore:
        """The token store of the training or the held-out part."""
        if part not in self._tokens:
            path = self.tokens_path / part
            if artifacts.read_manifest(path) is None:
                raise RunError(f"{path}: has not been made yet; run --stage=tokenise first")
            self._tokens[part] = TokenStore.open(path)  # reads every byte of it, hence once
        return self._tokens[part]

    @property
    def tokens_path(self) -> Path:
        """Where the token stores are."""
        return Path(self.config.text.store or self.workdir / "tokens")

    @functools.cached_property
    def activations(self) -> Any:
        """The rows to train on: the finished store, or the language model that makes the same rows live."""
        return {"store": self._stored, "rows": self._stored, "live": self._live}[self.config.activations.source]()

    def close_rows(self) -> None:
        """Rows that are made live end with the training that they were made for; the next one makes its own."""
        if self.producer:
            self.producer.close()
            del self.activations

    @property
    def producer(self) -> Any:
        """What makes rows while the sweep trains on them; None when they are on disk."""
        return self.activations if self.config.activations.source == "live" else None

    @property
    def meet(self) -> Any:
        """What several processes do together before they read rows that are made live (`Batches`); else None."""
        return self.producer.meet if self.producer and jax.process_count() > 1 else None

    def _live(self) -> Any:
        from gsae.activations.live import Live
        from gsae.activations.live_together import LiveTogether

        return (Live if jax.process_count() == 1 else LiveTogether).of(
            self.language_model,
            self.tokens("train"),
            self.language_model_sites,
            self.workdir / STATISTICS,
            statistics_rows=self.config.activations.statistics_rows,
            devices=self.language_model_devices,
            **(recipe.rows(self.config) | {"batch_size": self.sequences_at_once}),
        )

    def _stored(self) -> Any:
        from gsae.activations.store import ActivationStore

        if artifacts.read_manifest(self.activations_path) is None:
            raise RunError(f"{self.activations_path}: has not been made yet; run --stage=harvest first")
        return ActivationStore.open(self.activations_path, self.config.activations.statistics_rows)

    @property
    def activations_path(self) -> Place:
        """Where the activations to train on are."""
        return self.store_path if self.has_language_model else self.store_path / TRAIN

    @property
    def store_path(self) -> Place:
        """Where the activations are; rows from elsewhere in two parts."""
        return place(self.config.activations.store or self.workdir / "activations", "config.activations.store")

    @property
    def checkpoints_path(self) -> Place:
        """Where the checkpoints are."""
        return place(self.config.training.checkpoints or self.workdir / "checkpoints", "config.training.checkpoints")

    @functools.cached_property
    def rows(self) -> Rows:
        """The rows from elsewhere that the settings name, before they are imported."""
        if not self.config.activations.paths:
            allowed = (
                "has no finished rows: gsae.import_rows writes them there, or config.activations.paths names files"
            )
            raise SettingError("config.activations.store", self.config.activations.store, allowed)
        return Rows.open(self.config.activations.paths)

    @property
    def rows_are_imported(self) -> bool:
        """Whether rows from elsewhere are in the store, all of them."""
        return all(artifacts.read_manifest(self.store_path / part) is not None for part in (TRAIN, HELD_OUT))

    @functools.cached_property
    def held_out(self) -> Any:
        """What the points are judged on: a token store, or an activation store of rows from elsewhere."""
        from gsae.activations.store import ActivationStore

        return self.tokens("held_out") if self.has_language_model else ActivationStore.open(self.store_path / HELD_OUT)

    def autoencoder_path(self, point: Point) -> Path:
        """Where a point's weights are kept."""
        return self.weights_path(point.name)

    def weights_path(self, name: str) -> Path:
        """The same, by the point's name."""
        return self.workdir / "autoencoders" / name

    @property
    def looks_at_dictionaries(self) -> bool:
        """Whether the vectors of all points are looked at: where those of some carry the lengths."""
        return any(architecture(point.architecture).bounded for point in self.points)

    def input_scale(self, site: str) -> float:
        """What activations of a site are multiplied by before they are trained on."""
        return recipe.input_scale(self.config, self.activations.statistics(site)["mean_squared_norm"])

    def evaluation_path(self, point: Point) -> Path:
        """Where what came of a point is kept."""
        return self.workdir / "evaluation" / point.name

    def pursuit_path(self, point: Point) -> Path:
        """Where what pursuit made of a point's dictionary is kept."""
        return self.workdir / "pursuit" / point.name

    def took(self, name: str, seconds: float) -> None:
        """Adds to the time budget."""
        self.seconds[name] = self.seconds.get(name, 0.0) + seconds
        if self.is_first:
            artifacts.write_json(self.workdir / SECONDS, self.seconds)

    def time_budget(self) -> str:
        """What every stage took, one line each."""
        total = sum(self.seconds.values())
        lines = [f"  {name:<10}{seconds:8.1f} s {seconds / total:6.1%}" for name, seconds in self.seconds.items()]
        return "\n".join(["time budget", *lines, f"  {'in all':<10}{total:8.1f} s", f"everything is in {self.workdir}"])
