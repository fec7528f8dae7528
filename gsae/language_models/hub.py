"""From the name of a model to a directory on this machine, through the Hugging Face hub where need be.

The library of the hub honours the environment: HF_TOKEN, HF_HOME, HF_HUB_OFFLINE, HF_ENDPOINT.
"""

import contextlib
import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from gsae.errors import RunError, SettingError
from gsae.language_models.directory import (
    CONFIG,
    INDEX,
    OTHER_TOKENIZERS,
    PICKLED_INDEX,
    TOKENIZER,
    TOKENIZER_SETTINGS,
    weight_names,
)
from gsae.language_models.families import SETTING
from gsae.language_models.pickled import refuse_without_torch

BUNDLED = "bundled"
MAIN = "main"  # the branch of a model that is meant where nobody says otherwise
REVISION = "config.language_model.revision"
DESCRIPTION = [CONFIG, INDEX, PICKLED_INDEX, TOKENIZER, *dict.fromkeys((*TOKENIZER_SETTINGS, *OTHER_TOKENIZERS))]
SECONDS = 10.0  # until a hub that does not answer counts as out of reach


@dataclass(frozen=True)
class Found:
    """A model on this machine."""

    directory: Path
    commit: str | None  # of the hub's repository; None where the model is not from there


def find(name: str, revision: str = MAIN) -> Found:
    """Where a model is, downloaded if it is not there yet.

    Args:
        name: `bundled`, a directory, or a hub id such as `EleutherAI/pythia-70m`.
        revision: branch, tag or commit of a hub id.

    Raises:
        SettingError: when there is no such model or revision.
        RunError: when the hub cannot be reached and the cache does not have it.
    """
    directory = _directory(name, revision)
    return Found(directory, None) if directory else _from_hub(name, revision)


def find_configuration(name: str, revision: str = MAIN) -> Path:
    """The file config.json of a model: of one on the hub nothing else is downloaded.

    Raises:
        SettingError, RunError: as `find`.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    directory = _directory(name, revision)
    if directory:
        return directory / CONFIG
    try:
        with _refusals(name, revision):
            return Path(hf_hub_download(name, CONFIG, revision=revision, etag_timeout=SECONDS))
    except SettingError:
        raise
    except EntryNotFoundError as error:
        if isinstance(error, OSError):  # nothing in the cache, and no hub
            raise _unreachable(name, revision, error) from error
        raise SettingError(SETTING, name, f"has no {CONFIG} on the hub") from error
    except Exception as error:
        raise _unreachable(name, revision, error) from error


def _directory(name: str, revision: str) -> Path | None:
    """The directory that a name means; None for what looks like a hub id."""
    path = Path(__file__).parent / BUNDLED if name == BUNDLED else Path(name).expanduser()
    if name and path.is_dir():
        if not (path / CONFIG).is_file():
            raise SettingError(SETTING, name, f"is a directory without {CONFIG}; a Hugging Face model has one")
        if revision != MAIN:
            raise SettingError(REVISION, revision, f"must be {MAIN!r}: {name!r} is a directory, which has no others")
        return path
    looks_like_an_id = name.count("/") <= 1 and not name.startswith((".", "/", "~")) and name.strip("/") == name
    if not name or not looks_like_an_id:
        raise SettingError(SETTING, name, f"is no directory; must be one, a Hugging Face hub id, or {BUNDLED!r}")
    return None


@contextlib.contextmanager
def _refusals(name: str, revision: str) -> Iterator[None]:
    """What the hub says about a name or a revision, as one line that names the setting."""
    from huggingface_hub.errors import (
        GatedRepoError,
        HFValidationError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        yield
    except HFValidationError as error:
        raise SettingError(SETTING, name, f"is neither {BUNDLED!r} nor a directory nor a hub id ({error})") from error
    except GatedRepoError as error:
        allowed = "is gated: ask for access on its page on the hub, and set HF_TOKEN to your token"
        raise SettingError(SETTING, name, allowed) from error
    except RevisionNotFoundError as error:
        raise SettingError(REVISION, revision, f"is no branch, tag or commit of {name}") from error
    except RepositoryNotFoundError as error:
        allowed = "is no directory, and the hub has no such model, or none that HF_TOKEN may read"
        raise SettingError(SETTING, name, allowed) from error


def _reason(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _unreachable(name: str, revision: str, error: Exception) -> RunError:
    return RunError(
        f"{SETTING} = {name!r}: is no directory, the hub cannot be had ({_reason(error)}), "
        f"and its cache has no whole copy of revision {revision!r}"
    )


def _from_hub(name: str, revision: str) -> Found:
    from huggingface_hub import HfApi

    try:
        if re.fullmatch("[0-9a-f]{40}", revision) and (cached := _cached(name, revision)) is not None:
            return cached  # a commit never changes: nothing to ask the hub
        with _refusals(name, revision):
            listing = HfApi().model_info(name, revision=revision, timeout=SECONDS)
            present = [file.rfilename for file in listing.siblings or ()]
            return _downloaded(name, revision, present)
    except (SettingError, RunError):
        raise
    except Exception as error:  # what a network throws has no common class across versions of the library
        found = _cached(name, revision)
        if found is None:
            raise _unreachable(name, revision, error) from error
        logging.warning(
            "%s: the hub cannot be had (%s); using commit %s from the cache", name, _reason(error), found.commit
        )
        return found


def _downloaded(name: str, revision: str, present: list[str]) -> Found:
    """The snapshot with all that is needed, what the cache lacks fetched: first the small files, then the weights."""
    from huggingface_hub import snapshot_download

    directory = Path(snapshot_download(name, revision=revision, allow_patterns=DESCRIPTION))
    commit = directory.name
    weights = weight_names(directory, present)
    refuse_without_torch(weights[0])
    snapshot_download(name, revision=commit, allow_patterns=weights)
    return Found(directory, commit)


def _cached(name: str, revision: str) -> Found | None:
    """The snapshot in the cache, if all its weights are there."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        directory = snapshot_download(name, revision=revision, local_files_only=True, allow_patterns=DESCRIPTION)
        present = [file.name for file in Path(directory).iterdir()]
        weight_names(Path(directory), present)
    except (LocalEntryNotFoundError, SettingError):
        return None
    return Found(Path(directory), Path(directory).name)
