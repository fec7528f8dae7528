"""The notebook runs from top to bottom on a finished sweep, made here by the command line at reduced size."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOK = ROOT / "experiments" / "explore_sweep.ipynb"

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("sweep") / "run"
    reduced = [line for line in (ROOT / ".ci" / "reduced_run").read_text().splitlines() if line.startswith("--")]
    command = [sys.executable, "-m", "gsae.main", "--config=experiments/pareto_sweep.py", f"--workdir={workdir}"]
    subprocess.run([*command, *reduced], cwd=ROOT, check=True)
    return workdir


def test_the_notebook_runs(finished_run, monkeypatch):
    nbclient = pytest.importorskip("nbclient", reason="comes with the extra dev")
    nbformat = pytest.importorskip("nbformat", reason="comes with the extra dev")
    monkeypatch.setenv("GSAE_RUN", str(finished_run))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    client = nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(NOTEBOOK.parent)}})
    client.execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    printed = "".join(output.text for output in outputs if output.output_type == "stream" and output.name == "stdout")
    assert "loss recovered" in printed and "fires on" in printed
    assert any("image/png" in output.get("data", {}) for output in outputs), "the frontier is not shown"


def test_the_notebook_is_committed_without_outputs():
    nbformat = pytest.importorskip("nbformat", reason="comes with the extra dev")
    for cell in nbformat.read(NOTEBOOK, as_version=4).cells:
        assert cell.cell_type != "code" or (not cell.outputs and cell.execution_count is None)
