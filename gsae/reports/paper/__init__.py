"""The numbers of the Gated SAE paper (Rajamanoharan et al. 2024, arXiv 2404.16014v2), tables 1 to 8, as rows of ours.

`gated_sae_tables.csv`: shares instead of percentages, losses in nats, lambda in the paper's scale: squared errors
divided by the activation width, on Pythia and Gemma those of the baselines by the mean norm of the activations too. Of
two attention rows (Gemma-7B, layer 20, 6e-5 and 4e-5) it is not sure which lambda belongs to which. Rows with a
negative L0, which cannot be, are not usable. There are no such tables of GELU-1L.
"""

import csv
from pathlib import Path
from typing import Any

TABLES = Path(__file__).parent / "gated_sae_tables.csv"
SITES = {"resid": "resid_post", "mlp": "mlp_out", "attn": "attn_z"}  # theirs: ours
MODELS = {"gemma7b": "google/gemma-7b", "pythia2.8b": "EleutherAI/pythia-2.8b"}  # theirs: hub id
TEXTS = ("model", "kind", "site")
COUNTS = ("table", "layer", "width", "usable")


def paper_rows() -> list[dict[str, Any]]:
    """One row a point, with the columns of results.csv; `kind` is the paper's, "baseline" or "gated"."""
    with open(TABLES, newline="", encoding="utf-8") as file:
        return [_row(line) for line in csv.DictReader(file)]


def _row(line: dict[str, str]) -> dict[str, Any]:
    row: dict[str, Any] = {
        name: text if name in TEXTS else int(text) if name in COUNTS else float(text) if text else None
        for name, text in line.items()
    }
    row |= {"site": SITES[row["site"]], "model": MODELS[row["model"]]}
    return row | {"status": "ok" if row.pop("usable") else "impossible L0 in the source"}
