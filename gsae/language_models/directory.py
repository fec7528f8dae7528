"""What a Hugging Face model directory holds, by name."""

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

from gsae.errors import SettingError
from gsae.language_models.families import SETTING

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"  # of weights in several files
PICKLED_WEIGHTS = "pytorch_model.bin"  # as torch saves them
PICKLED_INDEX = "pytorch_model.bin.index.json"
PICKLED_LENS = "final.pth"  # how the file of a TransformerLens model ends, beside checkpoints of its training
TOKENIZER = "tokenizer.json"
# Beside tokenizer.json, what the text of a tokenizer depends on; and what other tokenizers consist of.
TOKENIZER_SETTINGS = ("tokenizer_config.json", "chat_template.jinja")
OTHER_TOKENIZERS = (
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "vocab.txt",
    "tokenizer.model",
    "spiece.model",
)


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file of a model.

    Raises:
        SettingError: when it is missing, or no object in JSON.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SettingError(SETTING, str(path), "is missing") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise SettingError(SETTING, str(path), f"is no JSON ({error})") from error
    if not isinstance(value, dict):
        raise SettingError(SETTING, str(path), "must hold a JSON object")
    return value


def weight_names(directory: Path, present: Collection[str]) -> list[str]:
    """The files that the weights are in: the single one, or those that the index in the directory lists.

    Args:
        directory: where the index is, if there is one.
        present: the names of the files that the model has.

    Raises:
        SettingError: when there are no weights, or one of the files that the index lists is not present.
    """
    for whole, index in ((WEIGHTS, INDEX), (PICKLED_WEIGHTS, PICKLED_INDEX)):
        if whole in present:
            return [whole]
        if index in present:
            return _listed(directory / index, present)
    lens = sorted(name for name in present if name.endswith(PICKLED_LENS) and "/" not in name)
    if not lens:
        raise SettingError(SETTING, str(directory), f"holds neither {WEIGHTS} nor {INDEX}, nor weights of torch")
    return lens[-1:]


def _listed(index: Path, present: Collection[str]) -> list[str]:
    listed = read_json(index).get("weight_map")
    if not isinstance(listed, dict) or not listed:
        raise SettingError(SETTING, str(index), "has no weight_map, which names the file of each tensor")
    names = sorted(set(listed.values()))
    for name in names:
        if name not in present:
            raise SettingError(SETTING, str(index.parent / name), f"is missing, but {index.name} lists it")
    return names


def weight_files(directory: Path) -> list[Path]:
    """`weight_names` of a directory on this machine, as paths."""
    present = [path.name for path in directory.iterdir() if path.is_file()]
    return [directory / name for name in weight_names(directory, present)]


def identifying_files(directory: Path) -> list[Path]:
    """Every file that decides what the model computes and what its tokens are, in a fixed order."""
    described = (TOKENIZER, *TOKENIZER_SETTINGS) if (directory / TOKENIZER).is_file() else OTHER_TOKENIZERS
    files = [directory / CONFIG, *weight_files(directory), *(directory / name for name in described)]
    return [path for path in files if path.is_file()]
