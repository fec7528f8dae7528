"""Trains a transformer from random weights: the batch of a step, the step, the held-out cross-entropy, checkpoints."""

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from safetensors.numpy import load_file, save_file

from gsae import artifacts
from gsae.errors import RunError
from gsae.language_models.settings import Settings
from gsae.language_models.transformer import Transformer
from gsae.mesh import DATA


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How the weights are found: AdamW over shuffled rows of the text, its learning rate linear to and from a plateau.

    Up to the last `decay_steps`, nothing depends on `steps`: a run may be lengthened or shortened until then.
    """

    seed: int
    steps: int
    batch_size: int  # rows of context_length tokens
    peak_learning_rate: float
    warmup_steps: int
    weight_decay: float  # on matrices, not on biases and norms
    beta1: float
    beta2: float
    gradient_clip: float  # greatest L2 norm of a step's gradient
    decay_steps: int  # the last updates, in which the learning rate falls to zero

    @property
    def decay_starts(self) -> int:
        """The step after which the learning rate falls."""
        return self.steps - self.decay_steps


def rows_of_step(tokens: np.ndarray, step: int, recipe: Recipe, context_length: int) -> np.ndarray:
    """The rows [batch_size, context_length + 1] of a step, a pure function of (seed, step).

    Every epoch cuts the text at another offset and shuffles the pieces; its last, incomplete batch is left out.
    """
    rows = (len(tokens) - context_length) // context_length
    steps_per_epoch = rows // recipe.batch_size
    if not steps_per_epoch:
        raise RunError(f"{len(tokens)} training tokens are fewer than one batch of {recipe.batch_size} rows")
    epoch, within = divmod(step, steps_per_epoch)
    random = np.random.default_rng([recipe.seed, epoch])
    offset = random.integers(context_length)
    chosen = random.permutation(rows)[within * recipe.batch_size : (within + 1) * recipe.batch_size]
    return tokens[(offset + chosen * context_length)[:, None] + np.arange(context_length + 1)].astype(np.int32)


def consecutive_rows(tokens: np.ndarray, context_length: int) -> np.ndarray:
    """Rows [N, context_length + 1] in which every token but the first is predicted once; the tail is left out."""
    starts = np.arange((len(tokens) - 1) // context_length) * context_length
    return tokens[starts[:, None] + np.arange(context_length + 1)].astype(np.int32)


def token_losses(model: Transformer, rows: jax.Array) -> jax.Array:
    """-log p of every token but the first of each row, in nats: [B, T] of rows [B, T + 1]."""
    logits = model(rows[:, :-1]).astype(jnp.float32)
    return optax.softmax_cross_entropy_with_integer_labels(logits, rows[:, 1:])


class Trainer:
    """Parameters and optimiser state of one run, and the jitted programs over them."""

    def __init__(self, settings: Settings, recipe: Recipe, mesh: Mesh):
        self.settings, self.recipe = settings, recipe
        self.schedule: Callable = optax.join_schedules(
            [
                optax.linear_schedule(0.0, recipe.peak_learning_rate, recipe.warmup_steps),
                optax.constant_schedule(recipe.peak_learning_rate),
                optax.linear_schedule(recipe.peak_learning_rate, 0.0, recipe.decay_steps),
            ],
            [recipe.warmup_steps, recipe.decay_starts],
        )
        optimiser = optax.chain(
            optax.clip_by_global_norm(recipe.gradient_clip),
            optax.adamw(
                self.schedule,
                b1=recipe.beta1,
                b2=recipe.beta2,
                weight_decay=recipe.weight_decay,
                mask=lambda parameters: jax.tree.map(lambda leaf: leaf.ndim > 1, parameters),
            ),
        )
        graph, parameters = nnx.split(Transformer(settings, nnx.Rngs(recipe.seed)))
        self.graph, self.replicated = graph, NamedSharding(mesh, PartitionSpec())
        self.by_row = NamedSharding(mesh, PartitionSpec(DATA))
        self.parameters = jax.device_put(parameters, self.replicated)
        self.optimiser_state = jax.device_put(optimiser.init(parameters), self.replicated)

        def loss_and_gradients(parameters, rows):
            """Sums over this device's rows, one row after the other: a row's arrays stay in a core's cache."""

            def add_row(sums, row):
                found = jax.value_and_grad(lambda p: token_losses(nnx.merge(graph, p), row[None]).sum())(parameters)
                return jax.tree.map(jnp.add, sums, found), None

            zeros = (jnp.zeros(()), jax.tree.map(jnp.zeros_like, parameters))
            sums, _ = jax.lax.scan(add_row, zeros, rows)
            return jax.lax.psum(sums, DATA)

        loss_and_gradients = jax.shard_map(
            loss_and_gradients,
            mesh=mesh,
            in_specs=(PartitionSpec(), PartitionSpec(DATA)),
            out_specs=PartitionSpec(),
            check_vma=False,
        )
        tokens = recipe.batch_size * settings.context_length

        @partial(jax.jit, donate_argnums=(0, 1))
        def step(parameters, optimiser_state, rows):
            loss, gradients = jax.tree.map(lambda total: total / tokens, loss_and_gradients(parameters, rows))
            updates, optimiser_state = optimiser.update(gradients, optimiser_state, parameters)
            return optax.apply_updates(parameters, updates), optimiser_state, loss

        self._step = step
        self._losses = jax.jit(
            jax.shard_map(
                lambda parameters, rows: token_losses(nnx.merge(graph, parameters), rows),
                mesh=mesh,
                in_specs=(PartitionSpec(), PartitionSpec(DATA)),
                out_specs=PartitionSpec(DATA),
                check_vma=False,
            )
        )

    @property
    def model(self) -> Transformer:
        """The model as it stands."""
        return nnx.merge(self.graph, self.parameters)

    def step(self, rows: np.ndarray) -> jax.Array:
        """One update; gives the mean loss in nats before it, not waited for."""
        rows_on_mesh = jax.device_put(rows, self.by_row)
        self.parameters, self.optimiser_state, loss = self._step(self.parameters, self.optimiser_state, rows_on_mesh)
        return loss

    def nats(self, rows: np.ndarray) -> float:
        """The sum of -log p over the tokens of rows [N, T + 1], in batches of the training size."""
        total, size = 0.0, self.recipe.batch_size
        for start in range(0, len(rows), size):
            batch = rows[start : start + size]
            padded = np.concatenate([batch, np.repeat(batch[:1], size - len(batch), 0)])
            losses = np.asarray(self._losses(self.parameters, jax.device_put(padded, self.by_row)))[: len(batch)]
            total += float(losses.sum(dtype=np.float64))
        return total

    def save(self, directory: Path, step: int, identity: Sequence[str], kept: int) -> None:
        """Publishes the state after `step` steps under `directory`, and removes all but the newest `kept` ones.

        `identity` tells runs apart: fingerprints of what shaped the state, the recipe's length left out.
        """
        leaves = {f"{i:04d}": np.asarray(leaf) for i, leaf in enumerate(jax.tree.leaves(self._state()))}
        with artifacts.publish(
            directory / f"step_{step:08d}", {"step": step, "identity": self._identity(identity, step)}
        ) as path:
            save_file(leaves, path / "state.safetensors")
        for old in sorted(directory.glob("step_????????"))[:-kept]:
            (old / artifacts.MANIFEST).unlink()
            (old / "state.safetensors").unlink()
            old.rmdir()

    def restore(self, directory: Path, identity: Sequence[str]) -> tuple[int, list[str]]:
        """Takes the newest state under `directory` that is whole and of the same run.

        Returns:
            The steps it had made (0: there is none), and what is wrong with newer ones that were passed over.
        """
        damaged: list[str] = []
        for path in sorted(directory.glob("step_????????"), reverse=True):
            try:
                manifest = artifacts.verify(path)
            except RunError as error:
                damaged.append(str(error))
                continue
            if manifest["identity"] != self._identity(identity, manifest["step"]):
                raise RunError(f"{path}: was made with other settings, text or tokenizer; choose another --workdir")
            leaves = load_file(path / "state.safetensors")
            structure = jax.tree.structure(self._state())
            self.parameters, self.optimiser_state = jax.tree.unflatten(
                structure, [jax.device_put(leaves[name], self.replicated) for name in sorted(leaves)]
            )
            return manifest["step"], damaged
        if damaged:
            raise RunError(f"every checkpoint is damaged: {'; '.join(damaged)}")
        return 0, damaged

    def _identity(self, run: Sequence[str], step: int) -> str:
        length = [] if step <= self.recipe.decay_starts else [self.recipe.steps, self.recipe.decay_steps]
        return artifacts.fingerprint([*run, *length])

    def _state(self):
        return self.parameters, self.optimiser_state
