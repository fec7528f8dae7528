"""A finished run, opened again by what stands in its workdir: for commands that look at runs and change nothing."""

import csv
import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gsae.errors import RunError, SettingError
from gsae.language_models.loading import LanguageModel
from gsae.language_models.pinned import load_pinned
from gsae.text.tokens import TokenStore


class FinishedRun:
    """The points of a run that has come to its report, its language model, and its held-out text.

    Args:
        workdir: of the run.
        flag: how the user named it, for complaints.

    Raises:
        SettingError: when there is no run, or its rows came from elsewhere, without text.
        RunError: when it has not finished, or cannot be read.
    """

    def __init__(self, workdir: Path, flag: str = "--workdir"):
        self.workdir = workdir
        if not (workdir / "config.json").is_file():
            raise SettingError(flag, str(workdir), "must be the directory of a run; there is no config.json in it")
        self.settings: Mapping[str, Any] = _json(workdir / "config.json")
        if self.settings["activations"]["source"] == "rows":
            raise SettingError(
                flag, str(workdir), "its rows came from elsewhere: there is no text to look at features on"
            )
        if not (workdir / "results.csv").is_file():
            raise RunError(f"{workdir}: is not finished (no results.csv); the command that made it continues it")

    @functools.cached_property
    def rows(self) -> dict[str, dict[str, str]]:
        """What came of every point, by its name, as results.csv has it."""
        with open(self.workdir / "results.csv", encoding="utf-8", newline="") as file:
            return {row["point"]: row for row in csv.DictReader(file)}

    @functools.cached_property
    def language_model(self) -> LanguageModel:
        """The language model under study, of the commit that the run was made with."""
        named = self.settings["language_model"]
        return load_pinned(
            self.workdir / "language_model.json", named["name"], named["dtype"], None, revision=named["revision"]
        )

    @functools.cached_property
    def held_out(self) -> TokenStore:
        """The held-out text."""
        return TokenStore.open(Path(self.settings["text"]["store"] or self.workdir / "tokens") / "held_out")

    def autoencoder(self, point: str) -> Any:
        """The autoencoder of a point, for raw activations."""
        from gsae.autoencoders.saving import load

        return load(self.workdir / "autoencoders" / point)

    def choose(self, points: str, flag: str = "--point") -> list[str]:
        """The points that a comma-separated list names; all that finished for "".

        Raises:
            SettingError: naming the one that there is not.
            RunError: when none has finished.
        """
        for name in filter(None, points.split(",")):
            if name not in self.rows:
                raise SettingError(flag, name, f"must be one of {', '.join(self.rows)}")
        finished = [name for name, row in self.rows.items() if row["status"] == "ok"]
        if not finished:
            raise RunError(f"{self.workdir}: no point of this run has finished")
        return [name for name in points.split(",") if name] or finished

    def site(self, point: str) -> str:
        """Where a point reads, `name.layer`."""
        return f"{self.rows[point]['site']}.{self.rows[point]['layer']}"


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError) as error:
        raise RunError(f"{path}: is not readable ({error})") from error
