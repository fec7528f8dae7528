"""Which token ids stand between documents and before rows, and which of them never count: settings against a model."""

from collections.abc import Sequence
from dataclasses import dataclass

from gsae.errors import SettingError


@dataclass(frozen=True)
class Marks:
    """What a token store puts around the documents, and what its mask leaves out."""

    separator_id: int | None  # before each document of a packed stream; None for nothing
    bos_id: int | None  # before every row; None for nothing
    uncounted_ids: tuple[int, ...]  # tokens that never count


def marks(
    *,
    packing: str,
    separator: str,
    prepend_bos: str,
    mask_special_tokens: bool,
    mask_tokens: Sequence[int],
    bos_id: int | None,
    eos_id: int | None,
    begins_with_bos: bool,
    special_ids: Sequence[int],
    vocabulary: int,
) -> Marks:
    """What the settings `config.text.*` of the first five names mean for a language model.

    Args:
        packing: with `one_document` a row there is nothing to separate.
        separator: `eos`, `bos`, `none`; `auto` for EOS, or BOS where there is no EOS.
        prepend_bos: `always`, `never`; `auto` for what the model's own tokenizer does.
        mask_special_tokens: whether the model's special tokens, the separator and BOS are left out of the mask.
        mask_tokens: further ids that are left out of it.
        bos_id: the model's id for the beginning of a text; None where it has none.
        eos_id: likewise for the end.
        begins_with_bos: whether its tokenizer puts BOS before a text by itself.
        special_ids: the ids of its special tokens.
        vocabulary: ids are below this.

    Raises:
        SettingError: when the model has no such token, or an id is outside the vocabulary.
    """
    if packing == "one_document" and separator in ("eos", "bos"):
        allowed = "must be auto or none: with one document a row there is nothing to separate"
        raise SettingError("config.text.separator", separator, allowed)
    for name, wanted, id_ in (("EOS", separator == "eos", eos_id), ("BOS", separator == "bos", bos_id)):
        if wanted and id_ is None:
            raise SettingError("config.text.separator", separator, f"the language model has no {name} token")
    if prepend_bos == "always" and bos_id is None:
        raise SettingError("config.text.prepend_bos", prepend_bos, "the language model has no BOS token")
    for id_ in mask_tokens:
        if not 0 <= id_ < vocabulary:
            raise SettingError("config.text.mask_tokens", id_, f"must be token ids from 0 to {vocabulary - 1}")
    if packing == "one_document":
        separator = "none"
    separators = {"auto": bos_id if eos_id is None else eos_id, "eos": eos_id, "bos": bos_id, "none": None}
    separator_id = separators[separator]
    prepended = bos_id if prepend_bos == "always" or (prepend_bos == "auto" and begins_with_bos) else None
    special = [*special_ids, separator_id, prepended] if mask_special_tokens else []
    return Marks(separator_id, prepended, tuple(sorted({*(i for i in special if i is not None), *mask_tokens})))
