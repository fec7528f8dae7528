"""Chat templates, rendered by transformers, of tokenizers in local directories."""

import json
import shutil
from pathlib import Path

import pytest

from gsae import language_models
from gsae.errors import SettingError
from gsae.language_models.chat import chat_renderer
from gsae.language_models.directory import TOKENIZER_SETTINGS
from gsae.language_models.tokenizing import SEPARATOR

BUNDLED = Path(language_models.__file__).parent / "bundled"
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] not in ('user', 'assistant') %}{{ raise_exception('who is this?') }}{% endif %}"
    "{{ message['role'] }}: {{ message['content'] }}\n{% endfor %}"
)
HELLO = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "what?"}]


@pytest.fixture
def directory(tmp_path):
    """The bundled model's tokenizer."""
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        shutil.copy(BUNDLED / name, tmp_path / name)
    return tmp_path


@pytest.mark.parametrize("place", ["tokenizer_config.json", "chat_template.jinja"])
def test_messages_are_rendered_by_the_models_own_template(directory, place):
    assert place in TOKENIZER_SETTINGS  # it is fetched with the model, and part of its fingerprint
    path = directory / place
    if place == "chat_template.jinja":
        path.write_text(TEMPLATE)
    else:
        path.write_text(json.dumps(json.loads(path.read_text()) | {"chat_template": TEMPLATE}))
    render = chat_renderer(directory)
    assert render(HELLO) == f"{SEPARATOR}user: hello\nassistant: what?\n"
    with pytest.raises(Exception, match="who is this"):
        render([{"role": "tool", "content": ""}])


def test_a_tokenizer_without_a_template_is_refused(directory):
    with pytest.raises(SettingError, match=r"config\.text\.content = 'chat': the tokenizer in .* has no chat template"):
        chat_renderer(directory)
    (directory / "tokenizer.json").write_text("{}")
    with pytest.raises(
        SettingError, match=r"config\.text\.content = 'chat': transformers cannot read the tok"
    ) as raised:
        chat_renderer(directory)
    assert "\n" not in str(raised.value)
