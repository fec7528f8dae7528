"""What a page of features holds, taken apart again. Used by several tests."""

import json
import re
import types

import numpy as np


def elements(text):
    """The data of a page, by element."""
    found = re.findall(r'<script type="application/json" id="([^"]+)">(.*?)</script>', text, re.DOTALL)
    return {name: json.loads(value) for name, value in found}


def unpacked(packed):
    """The arrays of a page's data, taken apart as its script does."""
    import base64
    import zlib

    raw = zlib.decompress(base64.b64decode(packed["blob"]))
    found = {}
    for name, (kind, offset, shape) in packed["arrays"].items():
        dtype = np.dtype(f"<{kind}") if kind != "u1" else np.dtype("u1")
        assert offset % dtype.itemsize == 0, f"{name} is not aligned"
        found[name] = np.frombuffer(raw, dtype, int(np.prod(shape)), offset).reshape(shape)
    return types.SimpleNamespace(**found)
