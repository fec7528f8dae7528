"""The notebook on activations of one's own runs, without torch and with it; the experiment's settings are valid."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from experiments import own_activations, pareto_sweep
from gsae import config

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOK = ROOT / "experiments" / "own_activations.ipynb"
WITHOUT_TORCH = "torch is not installed"


def test_the_experiment_is_valid_and_has_no_language_model():
    settings = own_activations.get_config()
    assert config.parse(settings).activations.source == "rows" and settings.language_model.name == ""
    assert settings.keys() == pareto_sweep.get_config().keys()


@pytest.mark.slow
def test_the_notebook_runs(tmp_path, monkeypatch):
    nbclient = pytest.importorskip("nbclient", reason="comes with the extra dev")
    nbformat = pytest.importorskip("nbformat", reason="comes with the extra dev")
    monkeypatch.setenv("GSAE_RUNS", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbclient.NotebookClient(notebook, timeout=500, resources={"metadata": {"path": str(NOTEBOOK.parent)}}).execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    printed = "".join(output.text for output in outputs if output.output_type == "stream" and output.name == "stdout")
    try:
        import torch  # noqa: F401
    except ImportError:
        assert WITHOUT_TORCH in printed
    assert "at equal FVU, hidden" in printed and "mean cosine with the true features" in printed
    assert any("image/png" in output.get("data", {}) for output in outputs), "the frontier is not shown"


@pytest.mark.parity
def test_its_cells_run_with_torch(tmp_path):
    """Without Jupyter, which the extra `parity` does not bring."""
    pytest.importorskip("torch")
    cells = [cell for cell in json.loads(NOTEBOOK.read_text())["cells"] if cell["cell_type"] == "code"]
    source = "\n".join("".join(cell["source"]) for cell in cells).replace("%matplotlib inline", "")
    environment = os.environ | {"GSAE_RUNS": str(tmp_path), "PYTHONPATH": str(ROOT), "XLA_FLAGS": ""}
    command = [sys.executable, "-c", source]
    found = subprocess.run(command, cwd=NOTEBOOK.parent, env=environment, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr[-3000:]
    assert WITHOUT_TORCH not in found.stdout
    found_cosines = [float(line.split()[-1]) for line in found.stdout.splitlines() if "mean cosine" in line]
    assert max(found_cosines) > 0.9  # the network's own features


def test_the_notebook_is_committed_without_outputs():
    for cell in json.loads(NOTEBOOK.read_text())["cells"]:
        assert cell["cell_type"] != "code" or (not cell["outputs"] and cell["execution_count"] is None)
