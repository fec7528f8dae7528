"""Keeps to the language model that a directory was made with, whatever its name means later."""

import json
from pathlib import Path
from typing import Any

from jax.sharding import Mesh

from gsae import artifacts
from gsae.errors import RunError, SettingError
from gsae.language_models.families import SETTING
from gsae.language_models.loading import LanguageModel, load_language_model


def load_pinned(record: Path, name: str, dtype: str, mesh: Mesh | None, *, revision: str) -> LanguageModel:
    """`load_language_model`, of the commit that `pin` recorded if there is a record.

    Raises:
        SettingError: when the model's files are not those that were recorded, and as `load_language_model`.
        RunError: when the record cannot be read, and as `load_language_model`.
    """
    before = _read(record)
    model = load_language_model(name, dtype, mesh, revision=before.get("commit") or revision)
    if before and before["fingerprint"] != model.fingerprint:
        allowed = f"its files have changed since {record} was written; restore them, or choose another --workdir"
        raise SettingError(SETTING, name, allowed)
    return model


def recorded_commit(record: Path) -> str | None:
    """The commit that `pin` recorded; None where there is no record, or the model is not from the hub."""
    return _read(record).get("commit")


def _read(record: Path) -> dict[str, Any]:
    try:
        return json.loads(record.read_text()) if record.exists() else {}
    except json.JSONDecodeError as error:
        raise RunError(f"{record}: is not readable ({error})") from error


def pin(record: Path, model: LanguageModel) -> None:
    """Writes down which model this is."""
    artifacts.write_json(record, {"name": model.name, "commit": model.commit, "fingerprint": model.fingerprint})
