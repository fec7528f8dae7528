"""Arrays and texts inside an HTML page: compact, and nothing in them can end a script or become markup."""

import base64
import hashlib
import json
import zlib
from collections.abc import Mapping
from html import escape
from pathlib import Path
from string import Template
from typing import Any

import numpy as np

HERE = Path(__file__).parent


def packed(arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Arrays as one deflated, base64-encoded blob, with what they are: name -> [dtype, offset in bytes, shape].

    Arrays are uint8, uint32 or float32, little-endian; `examples.js` takes them apart.
    """
    parts, about, offset = [], {}, 0
    for name, array in sorted(arrays.items(), key=lambda item: -item[1].dtype.itemsize):  # each stays aligned
        data = np.ascontiguousarray(array.astype(array.dtype.newbyteorder("<"))).tobytes()
        about[name] = [array.dtype.newbyteorder("<").str[1:], offset, list(array.shape)]
        parts.append(data)
        offset += len(data)
    return {"arrays": about, "blob": base64.b64encode(zlib.compress(b"".join(parts), 6)).decode()}


def json_element(name: str, value: Any) -> str:
    """A value as JSON in an element that a script reads by its id; a browser neither runs nor interprets it."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for character in ("<", ">", "&", "\u2028", "\u2029"):  # in JSON they stand in strings only
        text = text.replace(character, f"\\u{ord(character):04x}")
    text = text.encode("utf-8", "replace").decode()  # halves of surrogate pairs are no text
    return f'<script type="application/json" id="{escape(name)}">{text}</script>'


def interactive_page(template: str, *, styles: tuple[str, ...], scripts: tuple[str, ...], **parts: str) -> str:
    """A page from a template of this directory with style sheets and scripts of it, and data elements.

    A content security policy lets exactly these scripts run, and nothing be fetched from anywhere.

    Args:
        template: with $style, $script, $policy and the names of `parts`, whose texts are put in as they are.
        styles: names of files.
        scripts: names of files, which become one script.
        parts: texts by name, escaped already.
    """
    script = "\n".join((HERE / name).read_text(encoding="utf-8") for name in scripts)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'"
    style = "\n".join((HERE / name).read_text(encoding="utf-8") for name in styles)
    text = (HERE / template).read_text(encoding="utf-8")
    return Template(text).substitute(parts, style=style, script=script, policy=escape(policy, quote=True))
