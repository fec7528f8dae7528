"""What a family of language models is: settings from a configuration, and the names of the tensors."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from gsae.language_models.families.tensors import Source, Tensor, table
from gsae.language_models.settings import Settings


@dataclass(frozen=True)
class Family:
    """A `model_type` of Hugging Face.

    Attributes:
        model_type: the value in config.json.
        architecture: the class in transformers.
        settings: from the configuration; refuses what is not implemented.
        sources: for every parameter's path, with `*` for the layer, where it stands in a file.
        buffers: tensors that files hold and that follow from the settings: known, not read.
        prefix: what stands before names, except in files that were saved without the head.
        renamed: patterns of names that other versions wrote, and what they are called here.
    """

    model_type: str
    architecture: str
    settings: Callable[[Mapping[str, Any]], Settings]
    sources: Mapping[str, Source]
    buffers: str = r"(?!)"
    prefix: str = ""
    renamed: tuple[tuple[str, str], ...] = ()

    def tensors(self, settings: Settings) -> list[Tensor]:
        """One entry for each parameter; a fused tensor of a file is in several."""
        return table(settings, self.sources)

    def known_as(self, name: str, settings: Settings) -> str | None:
        """What the table calls a tensor of a file; None for one that is known and not read.

        A name that nobody knows is given back as it is.
        """
        for pattern, replacement in self.renamed:
            name = re.sub(pattern, replacement, name)
        if re.sub(r"\.\d+\.", ".*.", self.prefix + name, count=1) in {source.name for source in self.sources.values()}:
            name = self.prefix + name
        tied_copy = settings.tied_embeddings and name == self.sources["unembedding.kernel"].name
        return None if tied_copy or re.fullmatch(self.buffers, name) else name
