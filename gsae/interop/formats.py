"""Which format is what: reading a directory by looking at it, and writing one in a format by name."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from gsae import artifacts
from gsae.autoencoders import saving
from gsae.autoencoders.base import Autoencoder
from gsae.errors import RunError, SettingError
from gsae.interop import dictionary_learning, gemma_scope, saelens
from gsae.interop.conversion import as_gated, as_jumprelu, as_others_know_it, with_unit_norm_decoder


class Format(NamedTuple):
    """A format of autoencoders on disk."""

    is_here: Callable[[Path], bool]
    read: Callable[[Path], Autoencoder]
    write: Callable[[Autoencoder, Path], None]
    files: tuple[str, ...]


FORMATS: Mapping[str, Format] = {
    module.__name__.rpartition(".")[2]: Format(module.is_here, module.read, module.write, module.FILES)
    for module in (saelens, dictionary_learning, gemma_scope)
}
OWN = "gsae"
CONVERSIONS: Mapping[str, Callable[[Autoencoder], Autoencoder]] = {"gated": as_gated, "jumprelu": as_jumprelu}
OWN_FILES = (artifacts.MANIFEST, saving.CONFIG, saving.WEIGHTS)
ALL_FILES = tuple(dict.fromkeys((*OWN_FILES, *(file for kind in FORMATS.values() for file in kind.files))))


def load(path: str | Path) -> Autoencoder:
    """The autoencoder in a directory (or a file of Gemma Scope), in whichever known format, on raw activations.

    Raises:
        RunError: when nothing there is known, or it cannot be represented here; one line with the reason.
    """
    path = Path(path).expanduser()
    if (path / saving.WEIGHTS).is_file() or (path / artifacts.MANIFEST).is_file():
        return saving.load(path)
    if path.is_file() and (path.suffix == ".npz" or path.name == gemma_scope.SECOND):
        return gemma_scope.read(path)
    for kind in FORMATS.values():
        if kind.is_here(path):
            return kind.read(path)
    if not path.exists():
        raise RunError(f"{path}: does not exist")
    if (path / "sae.safetensors").is_file():
        raise RunError(f"{path}: looks like sparsify's, whose TopK autoencoders cannot be represented here")
    known = "; ".join([f"gsae: {saving.WEIGHTS}", *(f"{n}: {', '.join(k.files[:2])}" for n, k in FORMATS.items())])
    raise RunError(f"{path}: holds no autoencoder in a known format ({known})")


def export(
    autoencoder: Autoencoder,
    path: str | Path,
    format: str,
    *,
    convert_to: str | None = None,
    unit_norm_decoder: bool = False,
) -> None:
    """Writes an autoencoder in a format of another tool, whole or not at all; it takes raw activations there too.

    Args:
        autoencoder: what `load` gave; its metadata goes with it where the format has a place for it.
        path: a directory that does not exist yet, or is empty.
        format: one of `FORMATS`, or "gsae".
        convert_to: an architecture to convert it to first, exactly: one of `CONVERSIONS`.
        unit_norm_decoder: whether to fold the norms of the decoder vectors into the features first.

    Raises:
        SettingError: for an unknown name, a directory in use, or what the format cannot represent, with the reason.
    """
    if format not in (*FORMATS, OWN):
        raise SettingError("format", format, f"must be one of {', '.join((*FORMATS, OWN))}")
    if convert_to is not None and convert_to not in CONVERSIONS:
        raise SettingError("as", convert_to, f"must be one of {', '.join(CONVERSIONS)}")
    path = Path(path).expanduser()
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise SettingError("to", str(path), "is there already; name a new directory")
    if convert_to is not None:
        autoencoder = CONVERSIONS[convert_to](autoencoder)
    if unit_norm_decoder:
        autoencoder = with_unit_norm_decoder(autoencoder)
    if format == OWN:
        saving.save(autoencoder, path, autoencoder.metadata)
        return
    with artifacts.replacing(path) as directory:
        FORMATS[format].write(as_others_know_it(autoencoder), directory)
