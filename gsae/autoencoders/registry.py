"""The architectures by name. Adding one is a file and a line here: nothing else names an architecture."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from gsae.autoencoders.abstopk import AbsTopK
from gsae.autoencoders.base import Autoencoder, CommonOptions
from gsae.autoencoders.batchtopk import BatchTopK
from gsae.autoencoders.feature_choice import FeatureChoice
from gsae.autoencoders.gated import Gated
from gsae.autoencoders.gba import GBA
from gsae.autoencoders.jumprelu import JumpReLU
from gsae.autoencoders.jumprelu_tanh import JumpReLUTanh
from gsae.autoencoders.jumprelu_target import JumpReLUTarget
from gsae.autoencoders.matryoshka import Matryoshka
from gsae.autoencoders.mutual_choice import MutualChoice
from gsae.autoencoders.normalized import Normalized
from gsae.autoencoders.p_anneal import PAnneal
from gsae.autoencoders.rescaled import RescaledStandard
from gsae.autoencoders.standard import Standard
from gsae.autoencoders.top_afa import TopAFA
from gsae.autoencoders.topk import TopK
from gsae.autoencoders.variational import Variational
from gsae.errors import SettingError

ARCHITECTURES: Mapping[str, type[Autoencoder]] = {
    "abstopk": AbsTopK,
    "batchtopk": BatchTopK,
    "feature_choice": FeatureChoice,
    "gated": Gated,
    "gba": GBA,
    "jumprelu": JumpReLU,
    "jumprelu_tanh": JumpReLUTanh,
    "jumprelu_target": JumpReLUTarget,
    "matryoshka": Matryoshka,
    "mutual_choice": MutualChoice,
    "normalized": Normalized,
    "p_anneal": PAnneal,
    "rescaled_standard": RescaledStandard,
    "standard": Standard,
    "top_afa": TopAFA,
    "topk": TopK,
    "variational": Variational,
}


def architecture(name: str) -> type[Autoencoder]:
    """The class that `name` stands for.

    Raises:
        SettingError: listing the known names.
    """
    if name not in ARCHITECTURES:
        raise SettingError("config.sae.architecture", name, "must be one of " + ", ".join(sorted(ARCHITECTURES)))
    return ARCHITECTURES[name]


def architecture_name_of(cls: type[Autoencoder] | None) -> str:
    """The name under which a class is registered."""
    return next(name for name, known in ARCHITECTURES.items() if cls is known)


def architecture_name(autoencoder: Autoencoder) -> str:
    """The name under which an autoencoder's class is registered."""
    return architecture_name_of(type(autoencoder))


def make_options(name: str, settings: Mapping[str, Any]) -> CommonOptions:
    """The options of an architecture from plain values; those not given take their defaults.

    Raises:
        SettingError: for an unknown architecture, a setting that it does not have, or a value that is not allowed.
    """
    options = architecture(name).Options
    known = {field.name for field in dataclasses.fields(options)}
    for setting, value in settings.items():
        if setting not in known:
            allowed = f"{name} has no such setting, it has " + ", ".join(sorted(known))
            raise SettingError(f"config.sae.{setting}", value, allowed)
    return options(**settings)
