"""What a model directory of each family means: its configuration as `Settings`, its tensors by name.

A family is settings and a table of tensors; the transformer itself knows none of them. A configuration key that is
not in the family's table, or asks for something that is not implemented, is refused.

`family_of(config)` gives the `Family`; `family.settings(config)` the `Settings`; `family.tensors(settings)` a list
with one `Tensor` for each parameter of the model: its name and shape in the file, the parameter's path and shape, how
axes of the one become axes of the other (`Tensor.layout`, which reads any part of a parameter), and which axes devices
may share (`Tensor.partition`, at most into `Tensor.blocks` parts).
`family.known_as(name, settings)` says what the table calls a tensor that a file has.
"""

from collections.abc import Mapping
from typing import Any

from gsae.language_models.families.family import Family
from gsae.language_models.families.gemma import GEMMA, GEMMA2, GEMMA3, GEMMA3_TEXT
from gsae.language_models.families.gpt2 import GPT2
from gsae.language_models.families.gpt_neo import GPT_NEO
from gsae.language_models.families.gpt_neox import GPT_NEOX
from gsae.language_models.families.gptj import GPTJ
from gsae.language_models.families.llama import LLAMA
from gsae.language_models.families.mistral import MISTRAL
from gsae.language_models.families.olmo2 import OLMO2
from gsae.language_models.families.phi import PHI
from gsae.language_models.families.qwen import QWEN2, QWEN3
from gsae.language_models.families.reader import SETTING, refused
from gsae.language_models.families.tensors import Tensor
from gsae.language_models.families.transformer_lens import TRANSFORMER_LENS

FAMILIES: Mapping[str, Family] = {
    family.model_type: family
    for family in (
        GPT_NEOX, GPT2, LLAMA, MISTRAL, QWEN2, QWEN3, GEMMA, GEMMA2, GEMMA3_TEXT, GEMMA3, OLMO2, PHI, GPTJ, GPT_NEO,
        TRANSFORMER_LENS,
    )
}  # fmt: skip

__all__ = ["FAMILIES", "SETTING", "Family", "Tensor", "family_of", "refused"]


def family_of(config: Mapping[str, Any]) -> Family:
    """The family that a configuration names.

    Raises:
        SettingError: naming the model type and the supported ones.
    """
    # TransformerLens' own configurations have other keys, and no type.
    lens = TRANSFORMER_LENS.model_type if {"d_model", "d_head", "n_ctx"} <= set(config) else None
    model_type = config.get("model_type", lens)
    if not isinstance(model_type, str) or model_type not in FAMILIES:
        raise refused("model_type", model_type, f"is not a supported family; supported are {', '.join(FAMILIES)}")
    return FAMILIES[model_type]
