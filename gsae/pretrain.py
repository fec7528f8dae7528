"""Trains a small language model and writes it as a Hugging Face directory.

    python -m gsae.pretrain --config=experiments/pretrain_bundled.py

Killed at any moment and started again, it continues with the last checkpoint and ends with the same weights.
"""

import json
import math
import signal
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from absl import flags
from ml_collections import ConfigDict, config_flags

from gsae import artifacts
from gsae.errors import Interrupted, RunError, SettingError

WORKDIR = flags.DEFINE_string("workdir", "runs/pretrain_bundled", "Directory of the run: checkpoints, logs, model.")
CONFIG = config_flags.DEFINE_config_file("config", "experiments/pretrain_bundled.py", "File with get_config().")


class Knob(NamedTuple):
    """What a setting must be."""

    kind: type
    allowed: Callable[[Any], bool]
    words: str


def _at_least(least: int) -> Knob:
    return Knob(int, lambda value: value >= least, f"must be a whole number of at least {least}")


def _between(low: float, high: float) -> Knob:
    return Knob(float, lambda value: low <= value < high, f"must be a number from {low} to below {high}")


POSITIVE = Knob(float, lambda value: 0 < value < math.inf, "must be a positive number")
KNOBS: Mapping[str, Knob] = {
    "seed": _at_least(0),
    "mesh.data": _at_least(1),
    "text.held_out_fraction": Knob(float, lambda value: 0 < value < 1, "must be between 0 and 1, exclusive"),
    "model.vocabulary": Knob(int, lambda value: 257 <= value <= 65536, "must be a whole number from 257 to 65536"),
    "model.context_length": _at_least(2),
    "model.num_layers": _at_least(1),
    "model.width": _at_least(1),
    "model.num_heads": _at_least(1),
    "model.mlp_width": _at_least(1),
    "model.rotary_fraction": Knob(float, lambda value: 0 <= value <= 1, "must be a number from 0 to 1"),
    "model.parallel_residual": Knob(bool, lambda value: True, "must be True or False"),
    "training.steps": _at_least(1),
    "training.batch_size": _at_least(1),
    "training.peak_learning_rate": POSITIVE,
    "training.warmup_steps": _at_least(0),
    "training.decay_steps": _at_least(1),
    "training.weight_decay": _between(0, 1),
    "training.beta1": _between(0, 1),
    "training.beta2": _between(0, 1),
    "training.gradient_clip": POSITIVE,
    "logging.loss_every_steps": _at_least(1),
    "logging.evaluate_every_steps": _at_least(1),
    "logging.evaluation_tokens": _at_least(1),
    "checkpoints.every_steps": _at_least(1),
    "checkpoints.kept": _at_least(1),
}
# What may change between a run and its continuation.
OPERATIONAL = ("logging.", "checkpoints.")
# What may change until the learning rate begins to fall; checkpoints see to it.
LENGTH = ("training.steps", "training.decay_steps")


def check(config: ConfigDict) -> dict[str, Any]:
    """The settings by full name, `config.` left off.

    Raises:
        SettingError: for a setting that is unknown, missing, of the wrong type or out of range.
    """
    values: dict[str, Any] = {}

    def collect(prefix: str, part: Mapping[str, Any]) -> None:
        for key, value in part.items():
            if isinstance(value, ConfigDict):
                collect(f"{prefix}{key}.", value)
            else:
                values[prefix + key] = value

    collect("", config)
    for name in sorted(set(values) - set(KNOBS)):
        raise SettingError(f"config.{name}", values[name], "is not a setting of gsae.pretrain")
    for name, (kind, allowed, words) in KNOBS.items():
        value = values.get(name)
        if kind is float and isinstance(value, int) and not isinstance(value, bool):
            value = values[name] = float(value)
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)) or not allowed(value):
            raise SettingError(f"config.{name}", value, words)
    width, heads = values["model.width"], values["model.num_heads"]
    if width % heads:
        raise SettingError("config.model.num_heads", heads, f"must divide config.model.width = {width}")
    if int(width // heads * values["model.rotary_fraction"]) % 2:
        raise SettingError(
            "config.model.rotary_fraction",
            values["model.rotary_fraction"],
            f"must rotate an even part of a head's {width // heads} numbers",
        )
    if values["training.batch_size"] % values["mesh.data"]:
        raise SettingError(
            "config.training.batch_size",
            values["training.batch_size"],
            f"must be a multiple of config.mesh.data = {values['mesh.data']}",
        )
    if values["training.warmup_steps"] + values["training.decay_steps"] > values["training.steps"]:
        raise SettingError(
            "config.training.steps",
            values["training.steps"],
            "must be at least config.training.warmup_steps + config.training.decay_steps = "
            f"{values['training.warmup_steps'] + values['training.decay_steps']}",
        )
    return values


def _settings(values: Mapping[str, Any]):
    from gsae.language_models.transformer import Settings

    model = {name.removeprefix("model."): value for name, value in values.items() if name.startswith("model.")}
    head_width = model["width"] // model["num_heads"]
    return Settings(
        head_width=head_width,
        rotary_width=int(head_width * model.pop("rotary_fraction")),
        rotary_base=10000.0,
        norm_epsilon=1e-5,
        activation="gelu",
        attention_bias=True,
        tied_embeddings=False,
        **model,
    )


def _claim(workdir: Path, values: Mapping[str, Any]) -> str:
    """Writes the settings into a new workdir, or refuses one made with others; gives their fingerprint."""
    lasting = {name: value for name, value in values.items() if not name.startswith((*OPERATIONAL, *LENGTH))}
    path = workdir / "config.json"
    if path.exists():
        before = json.loads(path.read_text())
        for name, value in lasting.items():
            if before.get(name) != value:
                raise SettingError(f"config.{name}", value, f"{workdir} was made with {before.get(name)!r}")
    artifacts.write_json(path, dict(values))
    return artifacts.fingerprint(lasting)


def _texts(values: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    from gsae.text.sources import python_standard_library
    from gsae.text.splits import split_documents

    sides = split_documents(python_standard_library(), values["text.held_out_fraction"])
    train, held_out = ([document.text for document in side] for side in sides)
    return train, held_out


def train(values: Mapping[str, Any], workdir: Path) -> dict[str, float]:
    """Trains, evaluates and writes `<workdir>/model`; gives the figures of the finished model."""
    import jax
    from tokenizers import Tokenizer
    from tqdm import tqdm

    from gsae.language_models import tokenizing
    from gsae.language_models.pretraining import Recipe, Trainer, consecutive_rows, rows_of_step
    from gsae.language_models.saving import save_language_model
    from gsae.mesh import make_mesh

    jax.config.update("jax_num_cpu_devices", values["mesh.data"])
    _claim(workdir, values)
    recipe = Recipe(
        seed=values["seed"],
        **{name.removeprefix("training."): value for name, value in values.items() if name.startswith("training.")},
    )
    texts, held_out_texts = _texts(values)
    tokenizer_file = workdir / "tokenizer.json"
    if not tokenizer_file.exists():
        print(f"training the tokenizer on {len(texts)} documents", flush=True)
        artifacts.write_file(tokenizer_file, tokenizing.train_tokenizer(texts, values["model.vocabulary"]).to_str())
    tokenizer = Tokenizer.from_file(str(tokenizer_file))
    length = values["model.context_length"]
    tokens = tokenizing.joined_tokens(tokenizer, texts)
    held_out_tokens = tokenizing.joined_tokens(tokenizer, held_out_texts)
    held_out = consecutive_rows(held_out_tokens, length)
    identity = [_claim(workdir, values), artifacts.digest_bytes(tokens.tobytes())]
    trainer = Trainer(_settings(values), recipe, make_mesh(data=values["mesh.data"]))
    start, damaged = trainer.restore(workdir / "checkpoints", identity)
    for line in damaged:
        print(f"passed over a damaged checkpoint: {line}", flush=True)
    print(f"{len(tokens):,} training tokens, {len(held_out_tokens):,} held out; from step {start}", flush=True)
    log = _Log(workdir / "metrics.jsonl", start)
    # Evenly spread, or a short evaluation would see only the first few documents.
    few = held_out[:: max(1, len(held_out) * length // values["logging.evaluation_tokens"])]

    def export() -> None:
        save_language_model(
            workdir / "model",
            trainer.model,
            tokenizer,
            family="gpt_neox",
            dtype="bfloat16",
            separator=tokenizing.SEPARATOR,
        )

    asked_to_stop: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: asked_to_stop.append(number))
    bar = tqdm(total=recipe.steps, initial=start, unit="step", mininterval=1 if sys.stderr.isatty() else 20)
    try:
        losses = []
        for step in range(start + 1, recipe.steps + 1):
            losses.append(trainer.step(rows_of_step(tokens, step - 1, recipe, length)))
            bar.update()
            if step % values["logging.loss_every_steps"] == 0:
                loss = sum(map(float, losses)) / len(losses)
                losses.clear()
                if not math.isfinite(loss):
                    raise RunError(f"the training loss is {loss} at step {step}; lower the learning rate")
                log.write(step=step, loss=loss, learning_rate=float(trainer.schedule(step)))
                bar.set_postfix(loss=f"{loss:.3f}")
            if step % values["logging.evaluate_every_steps"] == 0:
                log.write(step=step, held_out=trainer.nats(few) / few[:, 1:].size)
                export()
            if step % values["checkpoints.every_steps"] == 0 or asked_to_stop:
                trainer.save(workdir / "checkpoints", step, identity, values["checkpoints.kept"])
            if asked_to_stop and step < recipe.steps:
                raise Interrupted(f"stopped at step {step}; the same command continues")
    finally:
        bar.close()
        signal.signal(signal.SIGTERM, before)
    export()
    nats = trainer.nats(held_out)
    size = sum(len(text.encode("utf-8", "surrogatepass")) for text in held_out_texts)
    figures = {
        "held_out_cross_entropy": nats / held_out[:, 1:].size,
        "held_out_bits_per_byte": nats / held_out[:, 1:].size * (len(held_out_tokens) - 1) / size / math.log(2),
        "train_cross_entropy": trainer.nats(few_train := consecutive_rows(tokens, length)[::40])
        / few_train[:, 1:].size,
    }
    log.write(step=recipe.steps, **figures)
    return figures


class _Log:
    """Lines of JSON, cut back to the step at which a run resumes."""

    def __init__(self, path: Path, step: int):
        self.path, self.began = path, time.monotonic()
        lines = path.read_text().splitlines(keepends=True) if path.exists() else []
        artifacts.write_file(path, "".join(line for line in lines if json.loads(line)["step"] <= step))

    def write(self, **values: float) -> None:
        line = {**values, "seconds": round(time.monotonic() - self.began, 1)}
        with open(self.path, "a") as file:
            file.write(json.dumps(line) + "\n")
        if "loss" not in values:
            print("\n" + "  ".join(f"{name} {value:.6g}" for name, value in line.items()), flush=True)


def main(arguments: list[str]) -> int:
    """Parses the flags and trains; gives the exit code."""
    try:
        flags.FLAGS(arguments)
        train(check(CONFIG.value), Path(WORKDIR.value))
    except (SettingError, RunError, Interrupted) as error:
        print(f"gsae.pretrain: {error}", file=sys.stderr)
        return error.exit_code
    except (flags.Error, AttributeError, TypeError, ValueError) as error:
        if flags.FLAGS.is_parsed():
            raise
        print(f"gsae.pretrain: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
