"""Autoencoders on the Hugging Face hub: pulling one into the cache, pushing a directory with a model card.

The library of the hub honours the environment: HF_TOKEN, HF_HOME, HF_HUB_OFFLINE, HF_ENDPOINT.
"""

import contextlib
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from gsae.autoencoders.base import Autoencoder
from gsae.autoencoders.registry import architecture_name
from gsae.errors import RunError
from gsae.interop import formats

MAIN = "main"
CARD = "README.md"
ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
METRICS = {  # of results.csv, as a card shows them
    "l0": "L0, features active per token",
    "loss_recovered": "loss recovered",
    "ce_difference": "loss with the reconstruction minus loss without, nats a token",
    "fvu": "fraction of variance unexplained",
    "gamma": "relative reconstruction bias gamma",
    "alive": "share of features alive",
}
LOADING = {  # format -> how its own tool loads a directory of it, beside `gsae.load`
    "saelens": "from sae_lens import SAE\n\nsae = SAE.load_from_disk(directory)",
    "dictionary_learning": (
        "from dictionary_learning.utils import load_dictionary\n\n"
        'dictionary, config = load_dictionary(directory, device="cpu")'
    ),
    "gemma_scope": 'import numpy as np\n\narrays = dict(np.load(f"{directory}/params.npz"))',
}


def load(name: str | Path, revision: str = MAIN, subfolder: str = "") -> Autoencoder:
    """The autoencoder in a directory or npz file, or in a repository of the hub, in any of the known formats.

    Args:
        name: a path, or a hub id `owner/name`.
        revision: branch, tag or commit of the hub id.
        subfolder: where in the directory or repository it is.

    Raises:
        RunError: when there is none, or what is there cannot be read or represented; one line with the reason.
    """
    path = Path(name).expanduser()
    if path.exists() or not ID.fullmatch(str(name)):
        return formats.load(path / subfolder if subfolder else path)
    return formats.load(pull(str(name), revision, subfolder))


def pull(name: str, revision: str = MAIN, subfolder: str = "") -> Path:
    """Downloads what an autoencoder consists of, as far as the cache lacks it; the directory.

    Raises:
        RunError: when there is no such repository, revision or subfolder, or the hub cannot be had.
    """
    from huggingface_hub import snapshot_download

    inside = f"{subfolder.strip('/')}/" if subfolder else ""
    with _explained(name, revision):
        snapshot = snapshot_download(
            name, revision=revision, allow_patterns=[inside + file for file in formats.ALL_FILES]
        )
    directory = Path(snapshot) / subfolder.strip("/")
    if not directory.is_dir() or not any(directory.iterdir()):
        where = f", below {subfolder!r}" if subfolder else "; it may be in a subfolder"
        raise RunError(f"{name}: revision {revision!r} holds no file of an autoencoder{where}")
    return directory


def push(
    directory: Path, name: str, *, subfolder: str = "", private: bool = False, revision: str = MAIN, message: str
) -> str:
    """Uploads a directory as one commit, the repository made if it is not there yet; the commit's address.

    Raises:
        RunError: when the hub refuses (HF_TOKEN must be allowed to write) or cannot be had.
    """
    from huggingface_hub import HfApi

    api = HfApi()
    with _explained(name, revision):
        api.create_repo(name, private=private, exist_ok=True)
        done = api.upload_folder(
            repo_id=name,
            folder_path=directory,
            path_in_repo=subfolder or None,
            commit_message=message,
            revision=revision,
        )
    return str(done.commit_url)


@contextlib.contextmanager
def _explained(name: str, revision: str) -> Iterator[None]:
    """Turns whatever the hub's library raises into one line."""
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    try:
        yield
    except GatedRepoError as error:
        raise RunError(f"{name}: is gated: ask for access on its page on the hub, and set HF_TOKEN") from error
    except RevisionNotFoundError as error:
        raise RunError(f"{name}: has no branch, tag or commit {revision!r} on the hub") from error
    except RepositoryNotFoundError as error:
        reason = "is no directory, and the hub has no such repository, or none that HF_TOKEN may use"
        raise RunError(f"{name}: {reason}") from error
    except Exception as error:  # what a network throws has no common class across versions of the library
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise RunError(f"{name}: the hub cannot be had, or refuses ({reason})") from error


def card(
    autoencoder: Autoencoder, name: str, format: str, *, subfolder: str = "", metrics: Mapping[str, Any] | None = None
) -> str:
    """A model card: what it is, where it comes from, how it does, how to load it.

    Args:
        autoencoder: with its metadata.
        name: the hub id that it is pushed to.
        format: of the files, "gsae" or one of `formats.FORMATS`.
        subfolder: where in the repository it is.
        metrics: a row of results.csv; those of `METRICS` are shown.
    """
    activation_width, features = autoencoder.W_enc.shape
    kind, about = architecture_name(autoencoder), autoencoder.metadata
    where = f', subfolder="{subfolder}"' if subfolder else ""
    facts = {"architecture": kind, "activation width": activation_width, "features": features, "format": format}
    facts |= {key.replace("_", " "): value for key, value in about.items() if _is_shown(value) and key != "training"}
    facts |= {"architecture": kind}  # what it is, also where it was converted from another
    shown = {label: metrics[key] for key, label in METRICS.items() if metrics and metrics.get(key) is not None}
    parts = [
        "---",
        f"library_name: {'gsae' if format == formats.OWN else format}",
        "tags:",
        "- sparse-autoencoder",
        f"- {kind}",
        "---",
        f"# {subfolder or name.rpartition('/')[2]}",
        f"A sparse autoencoder ({kind}, {features} features) of activations of width {activation_width}. It takes raw "
        "activations: input normalisation is folded into its weights.",
        _table("", facts),
    ]
    if shown:
        parts += ["## On held-out text", _table("", {label: f"{value:.4g}" for label, value in shown.items()})]
    parts += [
        "## To load it",
        f'```python\nimport gsae\n\nsae = gsae.load("{name}"{where})\n'
        "f = sae.encode(x)  # features of activations x [..., D]\nx_hat = sae.decode(f)\n```",
    ]
    if format in LOADING:
        fetch = f'from huggingface_hub import snapshot_download\n\ndirectory = snapshot_download("{name}")'
        fetch += f' + "/{subfolder}"' if subfolder else ""
        parts += ["Or:", f"```python\n{fetch}\n{LOADING[format]}\n```"]
    return "\n".join(parts[:6]) + "\n\n" + "\n\n".join(parts[6:]) + "\n"


def contents(name: str, format: str, subfolder: str, points: Sequence[str]) -> str:
    """The card of a repository with several autoencoders: which there are, and how to load one of them."""
    inside = f"{subfolder}/" if subfolder else ""
    listed = "\n".join(f"- [`{inside}{point}`]({point}/{CARD})" for point in points)
    head = f"---\nlibrary_name: {'gsae' if format == formats.OWN else format}\ntags:\n- sparse-autoencoder\n---\n"
    return (
        f"{head}# {name.rpartition('/')[2]}\n\n{len(points)} sparse autoencoders, format {format}:\n\n{listed}\n\n"
        f'```python\nimport gsae\n\nsae = gsae.load("{name}", subfolder="{inside}{points[0]}")\n```\n'
    )


def _is_shown(value: Any) -> bool:
    return isinstance(value, str | int | float) and value != ""


def _table(title: str, rows: Mapping[str, Any]) -> str:
    lines = [f"| {key} | {str(value).replace('|', chr(92) + '|')} |" for key, value in rows.items()]
    return "\n".join([f"| {title} | |", "| --- | --- |", *lines])
