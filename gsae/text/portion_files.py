"""Portions of encoded documents on disk: one artifact each, `000000`, `000001`, ... in a directory."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gsae import artifacts
from gsae.errors import RunError
from gsae.text.documents import Document, fingerprint

IDS, LENGTHS, HELD_OUT, NAMES = "ids.bin", "lengths.bin", "held_out.bin", "names.jsonl"


def write_portion(
    directory: Path,
    k: int,
    documents: Iterable[tuple[Document, np.ndarray]],
    held_out: Sequence[bool],
    record: Mapping[str, Any],
) -> None:
    """Publishes portion k: documents with their token ids, and which of them are held out."""
    pairs = list(documents)
    with artifacts.publish(_path(directory, k), {**record, "documents_sha256": fingerprint(d for d, _ in pairs)}) as to:
        with open(to / IDS, "wb") as file:
            for _, ids in pairs:
                file.write(ids.astype("<u4").tobytes())
        np.array([ids.size for _, ids in pairs], "<i8").tofile(to / LENGTHS)
        np.array(held_out, bool).tofile(to / HELD_OUT)
        (to / NAMES).write_text("".join(json.dumps(document.name) + "\n" for document, _ in pairs))


def read_portion(directory: Path, k: int, held_out: bool) -> Iterator[tuple[str, np.ndarray]]:
    """Name and token ids (uint32) of the documents of portion k that are on one side.

    Raises:
        RunError: when it is missing or damaged.
    """
    path = _path(directory, k)
    artifacts.verify(path)
    ids, lengths = np.fromfile(path / IDS, "<u4"), np.fromfile(path / LENGTHS, "<i8")
    names = (path / NAMES).read_text().splitlines()
    documents = np.split(ids, np.cumsum(lengths)[:-1])
    for name, of_document, side in zip(names, documents, np.fromfile(path / HELD_OUT, bool), strict=True):
        if side == held_out:
            yield json.loads(name), of_document


def published(directory: Path, made_from: Mapping[str, Any]) -> dict[int, dict[str, Any]]:
    """The manifests of the finished portions by their numbers.

    Raises:
        RunError: when they were made from something else than `made_from`.
    """
    manifests = {}
    for path in sorted(directory.glob("[0-9]*")) if directory.is_dir() else []:
        if path.name.isdigit() and (manifest := artifacts.read_manifest(path)) is not None:
            if manifest["made_from"] != json.loads(artifacts.canonical_json(made_from)):
                raise RunError(f"{directory}: was begun with other settings or another text; delete it and start again")
            manifests[int(path.name)] = manifest
    return manifests


def _path(directory: Path, k: int) -> Path:
    return directory / f"{k:06}"
