"""Loads the model in a directory and prints, in bytes, its parameters and the peak of resident memory above before."""

import json
import re
import sys
from pathlib import Path

import jax
from flax import nnx

from gsae.language_models.loading import load_language_model


def resident(what):
    return int(re.search(rf"{what}:\s+(\d+)", Path("/proc/self/status").read_text())[1]) * 1024


load_language_model("bundled")  # libraries and threads that every loading needs
Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here, mapped pages of files included
before = resident("VmRSS")
model = load_language_model(sys.argv[1]).model
peak = resident("VmHWM") - before
kept = sum(leaf.nbytes for leaf in jax.tree.leaves(nnx.state(model)))
print(json.dumps({"peak": peak, "kept": kept}))
