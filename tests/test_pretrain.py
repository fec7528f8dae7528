"""A tiny model trained through the command's own code: it learns, resumes exactly, and refuses wrong settings."""

import dataclasses
import json
import os
import runpy
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from gsae.errors import Interrupted, RunError, SettingError
from gsae.language_models.loading import load_language_model
from gsae.language_models.pretraining import Recipe, Trainer, consecutive_rows, rows_of_step
from gsae.pretrain import run
from gsae.pretrain.settings import configuration, parse

EXPERIMENT = Path(__file__).parents[1] / "experiments" / "pretrain_bundled.py"
WORDS = ["def", "return", "self", "value", "import", "class", "=", "(", ")", "0"]


def shipped_config():
    return runpy.run_path(str(EXPERIMENT))["get_config"]()


def small_texts(_):
    random = np.random.default_rng(0)
    made = [" ".join(WORDS[i] for i in np.sort(random.integers(0, 10, 120))) for _ in range(40)]
    return made[:30], made[30:]


@pytest.fixture(autouse=True, scope="module")
def small_corpus():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "texts", small_texts)
        yield


@pytest.fixture(scope="module")
def settings():
    config = shipped_config()
    config.model.update(vocabulary=280, context_length=8, num_layers=1, width=8, num_heads=2, mlp_width=16)
    config.model.rotary_fraction = 0.5
    config.training.update(steps=12, batch_size=4, warmup_steps=2, decay_steps=4, peak_learning_rate=0.02)
    config.logging.update(loss_every_steps=2, evaluate_every_steps=6, evaluation_tokens=64)
    config.checkpoints.every_steps = 4
    return parse(config)


def trained(settings, **changes):
    return dataclasses.replace(settings, training=dataclasses.replace(settings.training, **changes))


@pytest.fixture(scope="module")
def whole(settings, tmp_path_factory):
    """A run of 12 steps that nothing interrupted; tests copy it before they change it."""
    workdir = tmp_path_factory.mktemp("whole")
    run.train(settings, workdir)
    return workdir


def assert_ended_alike(a, b):
    """The last states (float32 weights, moments) and the models have the same bytes."""
    for file in (max((a / "checkpoints").iterdir()) / "state.safetensors", a / "model" / "model.safetensors"):
        assert file.read_bytes() == (b / file.relative_to(a)).read_bytes(), file


def test_it_learns_and_writes_a_model_that_the_loader_loads(settings, tmp_path):
    figures = run.train(trained(settings, steps=40), tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if "loss" in line]
    assert losses[-1] < losses[0] - 1
    assert [line["step"] for line in lines if "held_out" in line] == [6, 12, 18, 24, 30, 36]
    assert 0 < figures["held_out_cross_entropy"] < losses[0] - 1
    loaded = load_language_model(str(tmp_path / "model"))
    assert loaded.settings.vocabulary == 280
    assert len(list((tmp_path / "checkpoints").iterdir())) == settings.checkpoints.kept


def test_killed_and_started_again_it_ends_with_the_same_weights(settings, whole, tmp_path, monkeypatch):
    real, steps = Trainer.step, []

    def counted(self, rows):
        steps.append(1)
        if len(steps) == 7:
            raise KeyboardInterrupt
        return real(self, rows)

    monkeypatch.setattr(Trainer, "step", counted)
    with pytest.raises(KeyboardInterrupt):
        run.train(settings, tmp_path / "killed")
    run.train(settings, tmp_path / "killed")
    assert len(steps) == 7 + 8  # 6 done and one begun; then from the checkpoint at 4 to 12
    assert_ended_alike(whole, tmp_path / "killed")


def test_sigterm_saves_at_once(settings, whole, tmp_path, monkeypatch):
    real, steps = Trainer.step, []

    def signalled(self, rows):
        steps.append(1)
        if len(steps) == 6:
            os.kill(os.getpid(), signal.SIGTERM)
        return real(self, rows)

    monkeypatch.setattr(Trainer, "step", signalled)
    with pytest.raises(Interrupted, match="step 6"):
        run.train(settings, tmp_path / "stopped")
    run.train(settings, tmp_path / "stopped")
    assert len(steps) == 12
    assert_ended_alike(whole, tmp_path / "stopped")


@pytest.mark.slow
def test_the_length_may_change_until_the_decay_begins_and_nothing_else_may(settings, whole, tmp_path):
    longer = trained(settings, steps=16)
    run.train(longer, tmp_path / "whole")
    shutil.copytree(whole, tmp_path / "longer")
    with pytest.raises(RunError, match="other settings"):
        run.train(longer, tmp_path / "longer")
    shutil.rmtree(tmp_path / "longer" / "checkpoints" / "step_00000012")  # leaves the one at 8, before the decay
    run.train(longer, tmp_path / "longer")
    assert_ended_alike(tmp_path / "whole", tmp_path / "longer")
    with pytest.raises(SettingError, match=r"config\.training\.beta1 = 0\.5.*0\.9"):
        run.train(trained(longer, beta1=0.5), tmp_path / "longer")


def test_a_damaged_checkpoint_is_passed_over_aloud_and_all_damaged_is_an_end(settings, whole, tmp_path, capsys):
    shutil.copytree(whole, tmp_path / "run")
    newest = max((tmp_path / "run" / "checkpoints").iterdir())
    data = bytearray((newest / "state.safetensors").read_bytes())
    data[-3] ^= 1
    (newest / "state.safetensors").write_bytes(data)
    run.train(settings, tmp_path / "run")
    said = capsys.readouterr().out
    assert "damaged" in said
    assert "from step 8" in said
    assert_ended_alike(whole, tmp_path / "run")
    for path in (tmp_path / "run" / "checkpoints").iterdir():
        (path / "state.safetensors").write_bytes(b"")
    with pytest.raises(RunError, match="every checkpoint is damaged"):
        run.train(settings, tmp_path / "run")


def test_an_epoch_visits_every_row_once_and_the_next_one_otherwise():
    recipe = Recipe(0, 10, 4, 1e-3, 0, 0.0, 0.9, 0.95, 1.0, 1)
    tokens = np.arange(12 * 8 + 8)
    epochs = [np.concatenate([rows_of_step(tokens, 3 * e + i, recipe, 8) for i in range(3)]) for e in range(2)]
    for rows in epochs:
        assert rows.shape == (12, 9)
        assert len(np.unique(rows[:, :-1])) == 96
        np.testing.assert_array_equal(rows[:, 1:], rows[:, :-1] + 1)
    assert not np.array_equal(*epochs)
    np.testing.assert_array_equal(rows_of_step(tokens, 4, recipe, 8), epochs[1][4:8])
    with pytest.raises(RunError, match="fewer than one batch"):
        rows_of_step(tokens[:20], 0, recipe, 8)


def test_consecutive_rows_predict_every_token_once():
    rows = consecutive_rows(np.arange(50), 8)
    assert rows[:, 1:].ravel().tolist() == list(range(1, 49))


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("training.steps=0", "config.training.steps = 0: must be a positive number"),
        ("training.steps=many", "config.training.steps = 'many': must be of type int"),
        ("training.step=3", "config.training.step = 3: unknown setting"),
        ("training.peak_learning_rate=-1", "config.training.peak_learning_rate = -1"),
        ("training.decay_steps=1_000_000", "config.training.steps"),
        ("training.batch_size=3", "config.training.batch_size = 3: must be a multiple of config.mesh.data"),
        ("mesh.data=16", "config.mesh"),
        ("model.vocabulary=256", "config.model.vocabulary = 256: must be between 257"),
        ("model.num_heads=3", "config.model.num_heads = 3: must divide config.model.width = 128"),
        ("model.rotary_fraction=0.1", "config.model.rotary_fraction = 0.1: must rotate an even part"),
        ("model.parallel_residual=1", "config.model.parallel_residual = 1"),
        ("models.width=1", "config.models.width = 1: unknown setting"),
        ("seed=True", "config.seed = True"),
    ],
)
def test_wrong_settings_are_refused_in_one_line(tmp_path, override, words):
    with pytest.raises(SettingError) as caught:
        settings, _ = configuration([f"--config={EXPERIMENT}", f"--config.{override}"])
        run._mesh(settings.mesh.data)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("flag", ["--workdirs=x", "training.steps=3", "--config.seed"])
def test_other_arguments_are_refused(flag):
    with pytest.raises(SettingError, match="is not understood"):
        configuration([f"--config={EXPERIMENT}", flag])


def test_a_missing_config_file_is_refused():
    with pytest.raises(SettingError, match="nowhere"):
        configuration(["--config=nowhere.py"])


def test_overrides_and_workdir_reach_the_settings():
    settings, workdir = configuration(
        [f"--config={EXPERIMENT}", "--config.training.steps=2000", "--config.training.beta1=0", "--workdir=here"]
    )
    assert settings.training.steps == 2000
    assert settings.training.beta1 == 0.0
    assert workdir == Path("here")


def test_the_command_says_one_line_and_ends_with_exit_code_2():
    command = [sys.executable, "-m", "gsae.pretrain", f"--config={EXPERIMENT}", "--config.training.step=3"]
    ended = subprocess.run(command, capture_output=True, text=True, cwd=EXPERIMENT.parents[1])
    assert ended.returncode == 2
    assert ended.stderr.startswith("gsae.pretrain: config.training.step = 3")
    assert ended.stderr.count("\n") == 1
