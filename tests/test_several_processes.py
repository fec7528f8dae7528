"""One run in several processes: the rows, steps and files of one process, whoever dies, stops, or never comes."""

import csv
import json
import shutil
import signal
import time

import numpy as np
import processes_of_a_run as several
import pytest
import tiny_run
from feature_pages import elements, unpacked
from processes_of_a_run import LIMIT, Run
from safetensors.numpy import load_file

from gsae import artifacts, dashboards

pytestmark = pytest.mark.slow

MESH = {"mesh__data": 2, "mesh__feature": 2}
WHOLE = MESH | {"evaluation__every": 6, "evaluation__dashboards": 8}
CHOSEN = {"mesh__sweep": 0, "mesh__data": 0, "mesh__feature": 0}
ATTEMPTS = 5
STEPS = several.CHANGES["training__steps"]


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    return tiny_run.documents(tmp_path_factory.mktemp("texts"))


@pytest.fixture(scope="module")
def alone(texts, tmp_path_factory):
    """A run of one process with four devices that nobody stopped."""
    return Run(texts, tmp_path_factory.mktemp("alone") / "run", 1, 4, **WHOLE).to_the_end()


@pytest.fixture(scope="module")
def pair(texts, tmp_path_factory):
    """The same in two processes, started as Slurm would."""
    workdir = tmp_path_factory.mktemp("pair") / "run"
    return Run(texts, workdir, 2, 2, launcher=several.by_slurm, **WHOLE).to_the_end()


def trained(texts, workdir, alone, *args, **changes):
    """Only the training, on the rows that `alone` made."""
    stores = {"text__store": alone.workdir / "tokens", "activations__store": alone.workdir / "activations"}
    return Run(texts, workdir, *args, stage="train", **(MESH | stores | changes))


def wait_until(condition, run):
    limit = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < limit and None in [p.poll() for p in run.processes.values()], run.text(0)
        time.sleep(0.01)


def stopped_while_it_trains(begin, stop):
    """Stops a run after its first checkpoint; one that has all its steps by then does not count, and another begins."""
    for _ in range(ATTEMPTS):
        run = begin()
        wait_until(lambda run=run: any((run.workdir / "checkpoints").glob("step-*[0-9]/manifest.json")), run)
        stop(run)
        codes = run.codes()
        if set(codes) != {0} and max(metrics(run.workdir)) < STEPS:
            return run, codes
        shutil.rmtree(run.workdir)
    raise AssertionError(f"{ATTEMPTS} runs had ended before they could be stopped")


def weights(workdir):
    return {file.parent.name: load_file(file) for file in sorted(workdir.glob("autoencoders/*/weights.safetensors"))}


def metrics(workdir):
    text = (workdir / "logs" / "metrics.jsonl").read_text()
    lines = [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]  # killed, the last may be half
    return {line["step"]: line["points"] for line in lines}


def assert_steps_agree(ours, others, rtol):
    for point, values in others.items():
        for metric, value in values.items():
            np.testing.assert_allclose(ours[point][metric], value, rtol=rtol, atol=1e-7, err_msg=f"{point} {metric}")


def assert_same_weights(ours, others):
    assert ours.keys() == others.keys() and len(ours) == 4
    for point, arrays in ours.items():
        for name, array in arrays.items():
            np.testing.assert_array_equal(array, others[point][name], err_msg=f"{point} {name}")


def files_below(directory):
    return {str(f.relative_to(directory)): f.read_bytes() for f in sorted(directory.rglob("*")) if f.is_file()}


def test_two_processes_make_what_one_makes(alone, pair):
    for made in ("tokens", "activations"):
        ours, others = (files_below(run.workdir / made) for run in (pair, alone))
        assert ours == others and ours
    ours, others = metrics(pair.workdir), metrics(alone.workdir)
    assert list(ours) == list(others) == list(range(1, STEPS + 1))
    assert_steps_agree(ours[1], others[1], 1e-5)  # one step from a common state
    assert_steps_agree(ours[STEPS], others[STEPS], 1e-3)
    results = [(run.workdir / "results.csv").read_text().splitlines() for run in (pair, alone)]
    assert len(results[0]) == len(results[1]) == 5 and results[0][0] == results[1][0]
    for run in (pair, alone):
        assert "Written as JumpReLU autoencoders, 4 of these" in (run.workdir / "report.html").read_text()
    assert not list(pair.workdir.rglob("*partial*"))


def test_four_processes_harvest_evaluate_and_report_what_one_trained(texts, alone, tmp_path):
    workdir = tmp_path / "run"
    made = ("activations", "evaluation", "logs", "results.csv", "report.html", "features.html")
    shutil.copytree(alone.workdir, workdir, ignore=shutil.ignore_patterns(*made))
    Run(texts, workdir, 4, 1, **MESH, evaluation__every=6).to_the_end()
    assert files_below(workdir / "activations") == files_below(alone.workdir / "activations")
    assert_same_weights(weights(workdir), weights(alone.workdir))
    texts_of = ((path / "results.csv").read_text().splitlines() for path in (workdir, alone.workdir))
    ours, others = (list(csv.DictReader(lines)) for lines in texts_of)
    assert len(ours) == len(others) == 4
    for row, other in zip(ours, others, strict=True):
        assert row["site"] == other["site"] and row["architecture"] == other["architecture"]
        for metric in ("l0", "loss_recovered", "ce_spliced", "gamma", "fvu", "alive"):
            np.testing.assert_allclose(float(row[metric]), float(other[metric]), rtol=1e-4, err_msg=metric)
    assert (workdir / "report.html").stat().st_size > 10_000


def test_two_processes_look_at_features_as_one_does(pair, tmp_path):
    """The page that they made together, and that of one process with eight devices."""
    page = tmp_path / "features.html"
    tokens = several.CHANGES["evaluation__tokens"]
    flags = [f"--workdir={pair.workdir}", "--features=8", f"--tokens={tokens}", f"--out={page}"]
    assert dashboards.main(flags) == 0
    ours, others = (elements(path.read_text()) for path in (page, pair.workdir / "features.html"))
    assert len(ours) == len(others) > 4
    for name, element in ours.items():
        packed = [unpacked(found.pop("packed")) for found in (element, others[name]) if "packed" in found]
        assert element == others[name]
        for array, other in zip(*(vars(arrays).values() for arrays in packed), strict=True) if packed else ():
            np.testing.assert_allclose(array, other, rtol=1e-5, atol=1e-5, err_msg=name)


def test_only_the_first_process_prints_and_each_has_a_log(alone, pair):
    assert pair.printed(1) == []
    ours, others = ([line.split(" in ")[0] for line in run.printed(0)] for run in (pair, alone))
    for line in ("train: ", "gated at attn_z.1, 64 features: 2 points; ", "time budget", "standard L0 / gated L0"):
        assert sum(shown.startswith(line) for shown in ours) == sum(shown.startswith(line) for shown in others) == 1
    for index in range(2):
        log = pair.log(index)
        for said in (
            f"process {index} of 2 starts",
            "mesh {",
            "train begins",
            "report begins",
            f"process {index} ends",
        ):
            assert said in log, log
        assert "gated at attn_z.1, 64 features: 2 points; " in log and "everything is in" in log
        assert "%|" not in log
    assert not (alone.workdir / "logs" / "process-0.log").exists()


def test_a_stopped_run_of_four_processes_goes_on_in_two_on_the_mesh_that_is_chosen(texts, alone, tmp_path):
    def stop(run):
        run.processes[2].send_signal(signal.SIGTERM)
        run.processes[1].send_signal(signal.SIGINT)

    run, codes = stopped_while_it_trains(lambda: trained(texts, tmp_path / "run", alone, 4, 1), stop)
    assert codes == [75] * 4, run.text(2)
    [told] = [line for line in run.printed(0) if "the same command continues" in line]
    assert all(not run.printed(index) for index in (1, 2, 3))
    last = max(metrics(run.workdir))
    assert f"SIGTERM: saved at step {last} of {STEPS}" in told and 3 <= last < STEPS
    steps = [int(path.name[5:]) for path in (run.workdir / "checkpoints").glob("step-*")]
    assert max(steps) == last

    again = trained(texts, tmp_path / "run", alone, 2, 2, **CHOSEN).to_the_end()
    [chosen] = [line for line in again.printed(0) if line.startswith("mesh: sweep ")]
    log = again.log(1).rpartition("process 1 of 2 starts")[2]  # the run before this wrote into it, too
    assert "sweep 1 x data 2 x feature 2" not in chosen and "'feature': 2" not in log and "mesh {" in log, chosen
    assert f"training resumes at step {last} of {STEPS}" in again.printed(0)
    assert f"training resumes at step {last}" in again.log(1)
    ours, others = metrics(run.workdir), metrics(alone.workdir)
    assert list(ours) == list(others)
    assert_steps_agree(ours[last + 1], others[last + 1], 1e-5)
    assert len(weights(run.workdir)) == 4


def test_a_killed_process_ends_the_other_and_the_run_goes_on_in_one(texts, alone, pair, tmp_path):
    def begin():
        return trained(texts, tmp_path / "run", alone, 2, 2, processes__heartbeat_timeout=20.0)

    killed = []

    def kill(run):
        run.processes[1].kill()
        killed.append(time.monotonic())

    run, codes = stopped_while_it_trains(begin, kill)
    assert time.monotonic() - killed[-1] < 90
    assert codes == [1, -signal.SIGKILL]
    [told] = [line for line in run.printed(0) if line.startswith("gsae: ")]
    assert told.startswith("gsae: process 0: ") and ("has gone" in told or "has stopped" in told)
    assert not any("Traceback" in line or "Check failure" in line for line in run.printed(0))
    copy = tmp_path / "copy"
    shutil.copytree(run.workdir, copy)

    again = trained(texts, tmp_path / "run", alone, 2, 2).to_the_end()
    assert any("training resumes at step" in line for line in again.printed(0))
    assert_same_weights(weights(again.workdir), weights(pair.workdir))  # that run was never killed

    single = trained(texts, copy, alone, 1, 4, mesh__data=4, mesh__feature=1).to_the_end()
    [resumed] = [line for line in single.printed(0) if "training resumes at step" in line]
    first = int(resumed.split()[4]) + 1
    ours, others = metrics(copy), metrics(pair.workdir)
    assert list(ours) == list(others)
    assert_steps_agree(ours[first], others[first], 1e-5)


def test_a_process_that_never_comes_is_missed(texts, tmp_path):
    run = Run(texts, tmp_path / "run", 3, 1, only=(0, 2), processes__start_timeout=8.0)
    assert run.codes() == [1, 1]
    allowed = "(config.processes.start_timeout)"
    assert run.printed(0) == [f"gsae: process 0: 2 of 3 processes came within 8 s {allowed}; missing: 1"]
    assert run.printed(2) == []
    assert not run.workdir.exists()
    alone = Run(texts, tmp_path / "other", 2, 1, only=(1,), processes__start_timeout=1.0)
    assert alone.codes() == [1]
    [told] = alone.printed(1)
    assert told.startswith("gsae: process 1: process 0 did not answer at 127.0.0.1:") and told.endswith(allowed)


def test_what_is_wrong_in_one_process_is_said_once_and_ends_all(texts, tmp_path):
    run = Run(texts, tmp_path / "run", 2, 1, mesh__data=2, own=["--config.seed=1"])
    assert run.codes() == [2, 2]
    told = "config.seed = 0: must be the same in all processes; process 1 was started with 1"
    [line] = run.printed(0) + run.printed(1)
    assert line in [f"gsae: process {index}: {told}" for index in range(2)]
    assert not run.workdir.exists()


def test_targets_are_found_by_two_processes_on_live_rows_as_by_one_on_the_store(texts, alone, tmp_path):
    wanted = {"sweep__gated__sparsity_coefficients": (), "sweep__gated__target_l0": (4.0, 12.0)}
    wanted |= {"training__target_l0__pilot": "4 steps", "training__target_l0__held_out_tokens": 512}
    one = trained(texts, tmp_path / "one", alone, 1, 4, **wanted).to_the_end()
    live = {"text__store": alone.workdir / "tokens", "activations__source": "live"}
    two = Run(texts, tmp_path / "two", 2, 2, stage="train", **(MESH | live | wanted)).to_the_end()
    ratios = [[line for line in run.printed(0) if "times the L0 of training rows" in line] for run in (one, two)]
    assert len(ratios[0]) == len(ratios[1]) == 2
    for ours, others in zip(*ratios, strict=True):
        assert ours.split()[0] == others.split()[0]
        np.testing.assert_allclose(float(ours.split()[1]), float(others.split()[1]), rtol=0.01)
    ours, others = metrics(two.workdir), metrics(one.workdir)
    assert list(ours) == list(others) == list(range(1, STEPS + 1))
    assert_steps_agree(ours[1], others[1], 1e-5)
    assert_steps_agree(ours[STEPS], others[STEPS], 1e-3)
    found = json.loads((one.workdir / "pilot.json").read_text()), json.loads((two.workdir / "pilot.json").read_text())
    for pilots in zip(*(list(pilot.values()) for pilot in found), strict=True):
        np.testing.assert_allclose(pilots[0]["l0"], pilots[1]["l0"], rtol=1e-3)


# One run, ended again and again: in which stage, a sign that it is there, which process gets which signal, and with
# what codes both end. Its autoencoders are trained already.
ENDINGS = [
    ("tokenise", ("tokens/portions/*/manifest.json", 1), 0, signal.SIGKILL, [-signal.SIGKILL, 1]),
    ("harvest", ("activations/**/*.json", 2), 1, signal.SIGKILL, [1, -signal.SIGKILL]),
    ("evaluate", "evaluate begins", 1, signal.SIGTERM, [75, 75]),
    ("evaluate", ("evaluation/*/manifest.json", 1), 0, signal.SIGKILL, [-signal.SIGKILL, 1]),
    ("report", "report begins", 0, signal.SIGKILL, [-signal.SIGKILL, 1]),
]


def end(run, sign, index, number, codes):
    """Sends the signal when the sign is there; the one line that the others say, within a bounded time."""
    if isinstance(sign, str):
        wait_until(lambda: (run.workdir / "logs").exists() and sign in run.log(index), run)
    else:
        wait_until(lambda: len(list(run.workdir.glob(sign[0]))) >= sign[1], run)
    run.processes[index].send_signal(number)
    began = time.monotonic()
    assert run.codes(100) == codes, run.text(0) + run.text(1)
    assert time.monotonic() - began < 90
    printed = [line for index in range(2) for line in run.printed(index)]
    assert not any("Traceback" in line or "Check failure" in line for line in printed)
    [told] = [line for line in printed if line.startswith("gsae: ")]
    return told


def assert_whole(workdir):
    """Whatever is there under its own name is as its manifest says."""
    made = [path.parent for path in workdir.rglob("manifest.json") if "partial" not in str(path)]
    for path in made:
        artifacts.verify(path)
    return made


def test_whichever_stage_is_killed_or_terminated_the_same_command_ends_as_if_nobody_had(texts, pair, tmp_path):
    workdir = tmp_path / "run"
    for kept in ("autoencoders", "checkpoints"):
        shutil.copytree(pair.workdir / kept, workdir / kept)
    for stage, sign, index, number, codes in ENDINGS:
        run = Run(texts, workdir, 2, 2, **WHOLE, processes__heartbeat_timeout=12.0)
        told = end(run, sign, index, number, codes)
        if number == signal.SIGTERM:
            assert told == "gsae: process 1: SIGTERM: stopped; the same command continues"
        else:
            assert f"process {index}" in told or "has gone" in told, told
        assert f"{stage} begins" in run.log(1 - index)
        assert assert_whole(workdir) and not (workdir / "report.html").exists()
    last = Run(texts, workdir, 2, 2, **WHOLE).to_the_end()
    for made in ("tokens", "activations", "evaluation"):
        assert files_below(workdir / made) == files_below(pair.workdir / made), made
    for made in ("results.csv", "features.html"):
        assert (workdir / made).read_bytes() == (pair.workdir / made).read_bytes(), made
    assert not any("GFLOP a step" in line for line in last.printed(0))
    assert not list(workdir.rglob("*partial*"))


def test_rows_made_live_by_two_processes_train_as_their_store_does_and_are_made_again_after_kills(
    texts, pair, tmp_path
):
    def live():
        stored = {"text__store": pair.workdir / "tokens", "activations__source": "live"}
        stored |= {"evaluation__every": 6, "processes__heartbeat_timeout": 12.0}
        return Run(texts, tmp_path / "run", 2, 2, stage="train", **(MESH | stored))

    told = end(live(), "train begins", 1, signal.SIGKILL, [1, -signal.SIGKILL])  # rows for the statistics are exchanged
    assert "has gone" in told or "has stopped" in told, told
    workdir = tmp_path / "run"
    assert not (workdir / "statistics.json").exists() and not list(workdir.glob("checkpoints/step-*"))
    told = end(live(), ("checkpoints/step-*[0-9]/manifest.json", 1), 1, signal.SIGKILL, [1, -signal.SIGKILL])
    assert "has gone" in told or "has stopped" in told, told
    assert_whole(workdir)

    again = live().to_the_end()
    assert any("training resumes at step" in line for line in again.printed(0))
    assert metrics(workdir) == metrics(pair.workdir)
    assert_same_weights(weights(workdir), weights(pair.workdir))
    assert not (workdir / "activations").exists()
    assert any("each of 2 processes made a share of every generation" in line for line in again.printed(0))
