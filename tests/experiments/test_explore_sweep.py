"""The notebooks run from top to bottom on a finished sweep, made here by the command line at reduced size."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = {  # and what they print
    "explore_sweep": ("loss recovered", "fires on"),
    "dictionary_in_the_model": ("with the error kept", "matters most", "steered by 4 peaks"),
    "other_tools": (
        "agree on whether they fire",
        "gemma_scope, as jumprelu",
        "refused: format = 'gemma_scope'",
        "library_name",
    ),
}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("sweep") / "run"
    reduced = [line for line in (ROOT / ".ci" / "reduced_run").read_text().splitlines() if line.startswith("--")]
    command = [sys.executable, "-m", "gsae.main", "--config=experiments/pareto_sweep.py", f"--workdir={workdir}"]
    subprocess.run([*command, *reduced], cwd=ROOT, check=True)
    return workdir


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_the_notebook_runs(name, finished_run, monkeypatch):
    nbclient = pytest.importorskip("nbclient", reason="comes with the extra dev")
    nbformat = pytest.importorskip("nbformat", reason="comes with the extra dev")
    monkeypatch.setenv("GSAE_RUN", str(finished_run))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    path = ROOT / "experiments" / f"{name}.ipynb"
    notebook = nbformat.read(path, as_version=4)
    client = nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(path.parent)}})
    client.execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    printed = "".join(output.text for output in outputs if output.output_type == "stream" and output.name == "stdout")
    for said in NOTEBOOKS[name]:
        assert said in printed, printed
    if name == "explore_sweep":
        assert any("image/png" in output.get("data", {}) for output in outputs), "the frontier is not shown"


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_the_notebook_is_committed_without_outputs(name):
    nbformat = pytest.importorskip("nbformat", reason="comes with the extra dev")
    for cell in nbformat.read(ROOT / "experiments" / f"{name}.ipynb", as_version=4).cells:
        assert cell.cell_type != "code" or (not cell.outputs and cell.execution_count is None)
