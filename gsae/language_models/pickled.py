"""Weights as torch saves them (`.pth`, `.bin`), behind the interface of a safetensors file. Needs torch.

Only tensors are unpickled: a file cannot run code of its own.
"""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from gsae.errors import SettingError
from gsae.language_models.families import SETTING

SUFFIXES = (".pth", ".bin", ".pt")
CODES = {"float32": "F32", "bfloat16": "BF16", "float16": "F16", "float64": "F64"}


def refuse_without_torch(path: str | Path) -> None:
    """Raises a SettingError when a file is one of torch's and torch is not installed."""
    if Path(path).suffix in SUFFIXES and find_spec("torch") is None:
        needed = "needs torch to be read (pip install torch); or convert the weights to model.safetensors"
        raise SettingError(SETTING, str(path), needed)


class PickledFile:
    """An open file of torch tensors by name; they stay on disk until they are asked for, where the format allows."""

    def __init__(self, path: Path):
        """Opens a file.

        Raises:
            SettingError: when torch is not installed, or the file holds anything but tensors by name.
        """
        refuse_without_torch(path)
        import torch

        try:
            try:
                tensors = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
            except (RuntimeError, ValueError):  # a file of torch before 1.6 cannot be mapped
                tensors = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # pickle raises whatever the file makes it raise
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise SettingError(SETTING, str(path), f"is no file of torch tensors ({reason})") from error
        if not isinstance(tensors, dict) or not all(isinstance(value, torch.Tensor) for value in tensors.values()):
            raise SettingError(SETTING, str(path), "must hold tensors by their names (a state dict)")
        self._tensors = tensors

    def __enter__(self) -> "PickledFile":
        return self

    def __exit__(self, *_: object) -> None:
        self._tensors = {}

    def keys(self) -> list[str]:
        """The names of the tensors."""
        return list(self._tensors)

    def get_slice(self, name: str) -> "PickledTensor":
        """A tensor of which any part can be read."""
        return PickledTensor(self._tensors[name])


class PickledTensor:
    """One tensor of a file."""

    def __init__(self, tensor: Any):
        self._tensor = tensor

    def get_shape(self) -> list[int]:
        """Its shape."""
        return list(self._tensor.shape)

    def get_dtype(self) -> str:
        """Its dtype, as safetensors calls it; torch's own name for one that has no numbers for parameters."""
        name = str(self._tensor.dtype).removeprefix("torch.")
        return CODES.get(name, name)

    def __getitem__(self, index: tuple[slice, ...]) -> np.ndarray:
        """A part of it, in its own dtype."""
        part = self._tensor[index].contiguous()
        if self.get_dtype() == "BF16":
            import torch

            return part.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
        return part.numpy()
