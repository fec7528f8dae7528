"""The run: text, tokenizer, training with checkpoints, held-out cross-entropy, and the model on disk."""

import contextlib
import dataclasses
import json
import math
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from gsae import artifacts
from gsae.errors import Interrupted, RunError
from gsae.pretrain.settings import ModelSettings, Settings
from gsae.schema import plain, refuse_changes


def claim(workdir: Path, settings: Settings) -> None:
    """Writes the settings into a new workdir, or refuses one that was made with others."""
    path = workdir / "config.json"
    if path.exists():
        refuse_changes(json.loads(path.read_text()), settings)
    artifacts.write_json(path, plain(settings))


def texts(held_out_fraction: float) -> tuple[list[str], list[str]]:
    """Training and held-out texts: the standard library of the Python that runs."""
    from gsae.text.sources import python_standard_library
    from gsae.text.splits import split_documents

    train, held_out = split_documents(python_standard_library(), held_out_fraction)
    return [document.text for document in train], [document.text for document in held_out]


def train(settings: Settings, workdir: Path) -> dict[str, float]:
    """Trains, evaluates and writes `<workdir>/model`; gives the figures of the finished model."""
    from gsae.language_models.families import family_of
    from gsae.language_models.pretraining import Recipe, Trainer, consecutive_rows, rows_of_step
    from gsae.language_models.saving import save_language_model
    from gsae.language_models.tokenizing import SEPARATOR, joined_tokens

    claim(workdir, settings)
    texts_of_side = texts(settings.text.held_out_fraction)
    tokenizer = _tokenizer(workdir / "tokenizer.json", texts_of_side[0], settings.model.vocabulary)
    tokens, held_out_tokens = (joined_tokens(tokenizer, side) for side in texts_of_side)
    length = settings.model.context_length
    held_out = consecutive_rows(held_out_tokens, length)
    # Evenly spread, or a short evaluation would see only the first few documents.
    few = held_out[:: max(1, held_out[:, 1:].size // settings.logging.evaluation_tokens)]
    recipe = Recipe(seed=settings.seed, **dataclasses.asdict(settings.training))
    config = _model_config(settings.model)
    trainer = Trainer(family_of(config).settings(config), recipe, _mesh(settings.mesh.data))
    identity = [artifacts.digest_bytes(tokens.tobytes())]
    start, damaged = trainer.restore(workdir / "checkpoints", identity)
    for line in damaged:
        print(f"passed over a damaged checkpoint: {line}", flush=True)
    print(f"{len(tokens):,} training tokens, {len(held_out_tokens):,} held out; from step {start}", flush=True)
    log = _Log(workdir / "metrics.jsonl", start)

    def export() -> None:
        save_language_model(
            workdir / "model", trainer.model, tokenizer, config=config, dtype="bfloat16", separator=SEPARATOR
        )

    losses = []
    with _stop_signal() as asked_to_stop, _bar(start, recipe.steps) as bar:
        for step in range(start + 1, recipe.steps + 1):
            losses.append(trainer.step(rows_of_step(tokens, step - 1, recipe, length)))
            bar.update()
            if step % settings.logging.loss_every_steps == 0:
                loss = sum(map(float, losses)) / len(losses)
                losses.clear()
                if not math.isfinite(loss):
                    raise RunError(f"the training loss is {loss} at step {step}; lower the learning rate")
                log.write(step=step, loss=loss, learning_rate=float(trainer.schedule(step)))
                bar.set_postfix(loss=f"{loss:.3f}")
            if step % settings.logging.evaluate_every_steps == 0:
                log.write(step=step, held_out=trainer.nats(few) / few[:, 1:].size)
                export()
            if step % settings.checkpoints.every_steps == 0 or asked_to_stop:
                trainer.save(workdir / "checkpoints", step, identity, settings.checkpoints.kept)
            if asked_to_stop and step < recipe.steps:
                raise Interrupted(f"stopped at step {step}; the same command continues")
    export()
    figures = _figures(trainer.nats(held_out) / held_out[:, 1:].size, len(held_out_tokens), texts_of_side[1])
    log.write(step=recipe.steps, **figures)
    return figures


def _figures(cross_entropy: float, tokens: int, held_out_texts: Sequence[str]) -> dict[str, float]:
    size = sum(len(text.encode("utf-8", "surrogatepass")) for text in held_out_texts)
    return {
        "held_out_cross_entropy": cross_entropy,
        "held_out_bits_per_byte": cross_entropy * tokens / size / math.log(2),
    }


def _tokenizer(path: Path, training_texts: Sequence[str], vocabulary: int) -> Any:
    """The run's tokenizer, trained once."""
    from tokenizers import Tokenizer

    from gsae.language_models.tokenizing import train_tokenizer

    if not path.exists():
        print(f"training the tokenizer on {len(training_texts)} documents", flush=True)
        artifacts.write_file(path, train_tokenizer(training_texts, vocabulary).to_str())
    return Tokenizer.from_file(str(path))


def _model_config(model: ModelSettings) -> dict[str, Any]:
    """The model in the words of config.json."""
    return {
        "model_type": "gpt_neox",
        "hidden_size": model.width,
        "num_hidden_layers": model.num_layers,
        "num_attention_heads": model.num_heads,
        "intermediate_size": model.mlp_width,
        "vocab_size": model.vocabulary,
        "max_position_embeddings": model.context_length,
        "rotary_pct": model.rotary_fraction,
        "rotary_emb_base": 10000.0,
        "use_parallel_residual": model.parallel_residual,
        "layer_norm_eps": 1e-5,
        "hidden_act": "gelu",
        "attention_bias": True,
        "tie_word_embeddings": False,
    }


def _mesh(devices: int) -> Any:
    import jax

    from gsae.mesh import make_mesh

    with contextlib.suppress(RuntimeError):  # devices that are there already stay as they are
        jax.config.update("jax_num_cpu_devices", devices)
    return make_mesh(data=devices)


@contextlib.contextmanager
def _stop_signal() -> Iterator[list[int]]:
    """A list that SIGTERM fills."""
    received: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: received.append(number))
    try:
        yield received
    finally:
        signal.signal(signal.SIGTERM, before)


def _bar(start: int, steps: int) -> Any:
    from tqdm import tqdm

    return tqdm(total=steps, initial=start, unit="step", mininterval=1 if sys.stderr.isatty() else 20)


class _Log:
    """Lines of JSON, cut back to the step at which a run resumes."""

    def __init__(self, path: Path, step: int):
        self.path, self.began = path, time.monotonic()
        lines = path.read_text().splitlines(keepends=True) if path.exists() else []
        artifacts.write_file(path, "".join(line for line in lines if json.loads(line)["step"] <= step))

    def write(self, **values: float) -> None:
        line = {**values, "seconds": round(time.monotonic() - self.began, 1)}
        with artifacts.explained(self.path), open(self.path, "a") as file:
            file.write(json.dumps(line) + "\n")
        if "loss" not in values:
            print("\n" + "  ".join(f"{name} {value:.6g}" for name, value in line.items()), flush=True)
