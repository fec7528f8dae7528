"""Typed schemas for configurations: what a setting may be, and the one-line complaint when it is not. A leaf.

A schema is a frozen dataclass whose fields are made by the functions below (`positive()`, `one_of(...)`, ...): types
and bounds live in it, values and comments in the config file.
"""

import dataclasses
import typing
from collections.abc import Callable, Mapping
from typing import Any

from gsae.durations import ALLOWED as DURATIONS
from gsae.durations import DURATION
from gsae.errors import SettingError


def setting(allowed: str, check: Callable[[Any], bool], *, operational: bool = False, **absent: Any) -> Any:
    """A setting that must pass `check`; `allowed` completes the complaint. Operational ones may change between runs.

    `absent`: what a group means that does not name it, for groups that users write; all others must be set.
    """
    return dataclasses.field(metadata={"allowed": allowed, "check": check, "operational": operational, **absent})


def positive(**kwargs: bool) -> Any:
    """A number above zero."""
    return setting("must be a positive number", lambda value: value > 0, **kwargs)


def not_negative(**kwargs: Any) -> Any:
    """Zero or more."""
    return setting("must be zero or a positive number", lambda value: value >= 0, **kwargs)


def fraction() -> Any:
    """Between 0 and 1, both excluded."""
    return setting("must be between 0 and 1, both excluded", lambda value: 0 < value < 1)


def share() -> Any:
    """Between 0 and 1, both included."""
    return setting("must be between 0 and 1", lambda value: 0 <= value <= 1)


def one_of(*names: str, operational: bool = False) -> Any:
    """One of some names."""
    return setting("must be one of " + ", ".join(names), lambda value: value in names, operational=operational)


def text(**kwargs: bool) -> Any:
    """A text that is not empty."""
    return setting("must be a text that is not empty", bool, **kwargs)


def anything(**kwargs: bool) -> Any:
    """Whatever its type allows; groups of settings too."""
    return setting("", lambda value: True, **kwargs)


def group() -> Any:
    """A group of settings with a schema of its own."""
    return anything()


def some_positive() -> Any:
    """A tuple of at least one number, all above zero."""
    return setting("must be a tuple of positive numbers", lambda values: bool(values) and all(v > 0 for v in values))


def all_positive(**kwargs: Any) -> Any:
    """A tuple of numbers, all above zero; it may be empty."""
    return setting("must be a tuple of positive numbers", lambda values: all(v > 0 for v in values), **kwargs)


def duration(**kwargs: Any) -> Any:
    """Steps, tokens or a share of the run, as a string."""
    return setting(f"must be {DURATIONS}", lambda value: bool(DURATION.fullmatch(value)), **kwargs)


def some_durations() -> Any:
    """A tuple of durations; it may be empty."""
    return setting(
        f"must be a tuple of durations, each {DURATIONS}", lambda values: all(DURATION.fullmatch(v) for v in values)
    )


def axis() -> Any:
    """Devices along one axis of the mesh."""
    allowed = "must be a positive number of devices, 0 (chosen for you) or -1 (all that are left)"
    return setting(allowed, lambda value: value >= -1, operational=True)


def at_least_a_second() -> Any:
    """Seconds that something may take; it may change between runs."""
    return setting("must be at least 1 second", lambda value: 1 <= value < 10**9, operational=True)


def plain(config: Any) -> dict[str, Any]:
    """The configuration as nested dicts and lists, ready for JSON."""
    return _plain(config)


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (tuple, list)) else value


def refuse_changes(old: Mapping[str, Any], config: Any) -> None:
    """Refuses a configuration that differs from the one that made a workdir, operational settings excepted.

    Args:
        old: what `plain` gave when the workdir was made.
        config: the configuration of this run.

    Raises:
        SettingError: naming the first setting that differs, and both values.
    """
    before, now = _lasting(old, type(config)), lasting(config)
    for name in sorted(before.keys() | now.keys()):
        if before.get(name) == now.get(name):
            continue
        made = f"with {before[name]!r}" if name in before else "without it"
        raise SettingError(
            name,
            now.get(name, "(absent)"),
            f"this workdir was made {made}; restore it, or choose another --workdir",
        )


def lasting(config: Any) -> dict[str, Any]:
    """The settings that are not operational, by full name (`config.sae.width`), as plain values."""
    return _lasting(plain(config), type(config))


def _lasting(values: Mapping[str, Any], schema: type) -> dict[str, Any]:
    operational = _operational(schema, "config")
    return {
        name: value for name, value in flat(values).items() if not any(_is_below(name, other) for other in operational)
    }


def _is_below(name: str, other: str) -> bool:
    return name == other or name.startswith(f"{other}.")


def flat(values: Mapping[str, Any], name: str = "config") -> dict[str, Any]:
    """What `plain` gave, by full name (`config.sae.width`)."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        found.update(flat(value, f"{name}.{key}") if isinstance(value, Mapping) else {f"{name}.{key}": value})
    return found


def _operational(schema: type, name: str) -> set[str]:
    names: set[str] = set()
    for field in dataclasses.fields(schema):
        kind = typing.get_type_hints(schema)[field.name]
        if field.metadata["operational"]:
            names.add(f"{name}.{field.name}")
        elif dataclasses.is_dataclass(kind):
            names |= _operational(typing.cast(type, kind), f"{name}.{field.name}")
    return names


def section(schema: type, values: Any, name: str) -> Any:
    """`values` as an instance of `schema`; every complaint names its setting below `name`."""
    if not hasattr(values, "items"):
        raise SettingError(name, values, "must be a group of settings")
    given = dict(values.items())
    kinds = typing.get_type_hints(schema)
    unknown = sorted(given.keys() - kinds.keys())
    if unknown:
        raise SettingError(f"{name}.{unknown[0]}", given[unknown[0]], f"unknown setting; known: {', '.join(kinds)}")
    parsed = {}
    for field in dataclasses.fields(schema):
        full = f"{name}.{field.name}"
        if field.name not in given and "absent" in field.metadata:
            parsed[field.name] = field.metadata["absent"]
            continue
        if field.name not in given:
            raise SettingError(
                full, "(absent)", "the config file must set it (experiments/pareto_sweep.py has them all)"
            )
        value = _value(kinds[field.name], given[field.name], full)
        if not field.metadata["check"](value):
            raise SettingError(full, given[field.name], field.metadata["allowed"])
        parsed[field.name] = value
    return schema(**parsed)


def _value(kind: Any, value: Any, name: str) -> Any:
    """`value` as the type `kind`; a whole number passes for a float, a list for a tuple, and nothing else."""
    if dataclasses.is_dataclass(kind):
        return section(typing.cast(type, kind), value, name)
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is tuple:
        if not isinstance(value, (tuple, list)):
            raise SettingError(name, value, f"must be a tuple of {arguments[0].__name__}, such as '(1, 2)'")
        return tuple(_value(arguments[0], item, f"{name}[{index}]") for index, item in enumerate(value))
    if origin is not None:  # a mapping
        if not hasattr(value, "items"):
            raise SettingError(name, value, "must be a group of settings")
        if dataclasses.is_dataclass(arguments[1]):
            return {key: _value(arguments[1], item, f"{name}.{key}") for key, item in value.items()}
        return dict(value.items())
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise SettingError(name, value, f"must be of type {kind.__name__}, is {type(value).__name__}")
    return value
