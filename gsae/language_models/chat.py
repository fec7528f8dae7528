"""Conversations as text, by the chat template that comes with a model's tokenizer."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from gsae.errors import SettingError


def chat_renderer(directory: Path) -> Callable[[list[dict[str, Any]]], str]:
    """What turns messages (mappings with `role` and `content`) into the text that the model was trained on.

    The template (`chat_template` of tokenizer_config.json, or chat_template.jinja) is rendered by transformers; special
    tokens stand in the text as such, and the tokenizer gives them their ids.

    Args:
        directory: the model's files.

    Raises:
        SettingError: when the tokenizer cannot be read or has no chat template.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(str(directory))
    except Exception as error:  # whatever a damaged file makes of it
        reason = " ".join(str(error).split())
        raise SettingError(
            "config.text.content", "chat", f"transformers cannot read the tokenizer ({reason})"
        ) from error
    if not tokenizer.chat_template:
        raise SettingError("config.text.content", "chat", f"the tokenizer in {directory} has no chat template")
    return lambda messages: str(tokenizer.apply_chat_template(messages, tokenize=False))
