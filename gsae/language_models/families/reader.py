"""Reads a model's config.json key by key, and refuses what nobody asked for."""

from collections.abc import Mapping
from typing import Any

from gsae.errors import SettingError

SETTING = "config.language_model.name"

# Keys that every configuration of transformers may hold and that change nothing about logits or sites: names, ids,
# initialisation, and what only training, generation or classification reads.
HARMLESS = frozenset(
    [
        "architectures",
        "bos_token_id",
        "cache_implementation",
        "classifier_dropout",
        "dtype",
        "eos_token_id",
        "gradient_checkpointing",
        "initializer_range",
        "is_decoder",
        "model_type",
        "pad_token_id",
        "task_specific_params",
        "tokenizer_class",
        "torch_dtype",
        "transformers_version",
        "use_cache",
        "_name_or_path",
    ]
)

# Hugging Face's names of nonlinearities -> the transformer's.
ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
}


def refused(what: str, value: object, allowed: str) -> SettingError:
    """The error for a model that is there but cannot be used: `what` and `value` are the model's own words."""
    return SettingError(SETTING, f"{what} = {value}", allowed)


class Reader:
    """Reads a configuration key by key, and then refuses what nobody asked for."""

    def __init__(self, config: Mapping[str, Any]):
        self.config = config
        self.seen = set(HARMLESS)

    def number(self, key: str, default: float | None = None) -> Any:
        """A number; the default of the family when the key is absent."""
        self.seen.add(key)
        value = self.config.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
            raise refused(key, value, "must be a number that is not negative, in the model's config.json")
        return value

    def number_or_none(self, key: str, default: float | None) -> float | None:
        """A number, or None when the key is absent without default, or null."""
        self.seen.add(key)
        return None if self.config.get(key, default) is None else float(self.number(key, default))

    def count(self, key: str, default: int | None = None) -> int:
        """A positive whole number; it must be there, unless the family has a default."""
        if self.config.get(key) is None and default is not None:
            self.seen.add(key)
            return default
        value = self.number(key)
        if not isinstance(value, int) or value < 1:
            raise refused(key, value, "must be a positive whole number, in the model's config.json")
        return value

    def count_or_none(self, key: str, default: int | None = None) -> int | None:
        """A positive whole number, or None when the key is null, or absent without a default."""
        self.seen.add(key)
        return None if self.config.get(key, default) is None else self.count(key, default)

    def choice(self, key: str, default: Any, allowed: Mapping[Any, Any]) -> Any:
        """What `allowed` has for the key's value."""
        self.seen.add(key)
        value = self.config.get(key, default)
        if not isinstance(value, str | bool | None) or value not in allowed:
            raise refused(key, value, f"is not implemented; one of {', '.join(map(str, allowed))} is")
        return allowed[value]

    def flag(self, key: str, default: bool) -> bool:
        """True or false."""
        return self.choice(key, default, {True: True, False: False})

    def names(self, key: str, default: list[str], allowed: Mapping[str, Any]) -> list[Any]:
        """What `allowed` has for each of a list of names, as many as the default has."""
        self.seen.add(key)
        values = self.config.get(key)
        values = default if values is None else values
        if not isinstance(values, list) or len(values) != len(default) or not set(map(str, values)) <= set(allowed):
            raise refused(key, values, f"must be a list of {len(default)} names out of {', '.join(allowed)}")
        return [allowed[value] for value in values]

    def section(self, key: str) -> "Reader":
        """A reader of the object under a key; an empty one when it is absent. It needs its own `finish`."""
        self.seen.add(key)
        value = self.config.get(key) or {}
        if not isinstance(value, Mapping):
            raise refused(key, value, "must be an object, in the model's config.json")
        return Reader(value)

    def ignore(self, *keys: str) -> None:
        """Keys of this family that change nothing about logits or sites."""
        self.seen.update(keys)

    def finish(self) -> None:
        """Refuses keys that nothing has read, unless they hold nothing."""
        for key in sorted(set(self.config) - self.seen):
            if self.config[key] not in (None, False, 0, {}, []):
                raise refused(key, self.config[key], "is not a setting that is implemented for this family")
