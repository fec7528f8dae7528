"""SAELens and dictionary_learning behind one interface, for `train_step.py`. Neither is needed to train.

Each runs in a process of its own, as it does for its users: `train_step.py` changes how its process keeps memory, which
makes their steps faster too.
"""

import contextlib
import importlib.util
import itertools
import logging
import multiprocessing
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

import numpy as np

from gsae.training.allocator import keep_freed_memory

PACKAGES = ("sae_lens", "dictionary_learning")
SAME_LOSS = {"sae_lens": False, "dictionary_learning": True}  # whether its loss is defined as ours is
Step = Callable[[Any], Any]  # one update on a tensor [B, D]; its loss, a tensor that nobody has waited for


class How(NamedTuple):
    """How all contenders train: the first two as they are called, where, the precision of the products, the memory."""

    sparsity_coefficient: float
    learning_rate: float
    device: str
    precision: str
    same_allocator: bool


class Peer:
    """Another trainer in another process: `step(n)` makes n updates and returns the loss before the last of them.

    It starts from the first of our stacked autoencoders [S, ...] and takes the inputs in turn.
    """

    def __init__(self, package: str, stacked: Any, inputs: list[np.ndarray], how: How) -> None:
        arrays = {
            name: np.array(array[0])
            for name in type(stacked).feature_axes
            if (array := getattr(stacked, name)) is not None
        }
        spawn = multiprocessing.get_context("spawn")
        self.connection, theirs = spawn.Pipe()
        arguments = (theirs, package, arrays, inputs, how)
        self.process = spawn.Process(target=_serve, args=arguments, daemon=True)
        self.process.start()
        theirs.close()
        self.same_loss = SAME_LOSS[package]

    def step(self, updates: int) -> float:
        """So many updates; waits for the last."""
        self.connection.send(updates)
        return self.connection.recv()

    def stop(self) -> None:
        """Ends the process and gives its memory back."""
        self.connection.send(None)
        self.process.join()


def installed() -> list[str]:
    """The peers that can be imported."""
    return [name for name in PACKAGES if importlib.util.find_spec("torch") and importlib.util.find_spec(name)]


def _serve(
    connection: Connection, package: str, arrays: dict[str, np.ndarray], inputs: list[np.ndarray], how: How
) -> None:
    import torch

    if how.same_allocator:
        keep_freed_memory()
    torch.set_float32_matmul_precision("highest" if how.precision == "float32" else "high")
    step = {"sae_lens": _sae_lens, "dictionary_learning": _dictionary_learning}[package](arrays, how)
    tensors, done = [torch.from_numpy(x_BD).to(how.device) for x_BD in inputs], 0
    while (updates := connection.recv()) is not None:
        for _ in range(updates):
            loss = step(tensors[done % len(tensors)])
            done += 1
        connection.send(loss.item())


def _dictionary_learning(arrays: dict[str, np.ndarray], how: How) -> Step:
    import torch
    from dictionary_learning.trainers.gdm import GatedSAETrainer

    width, features = arrays["W_enc"].shape
    trainer = GatedSAETrainer(
        steps=10**6,
        activation_dim=width,
        dict_size=features,
        layer=0,
        lm_name="none",
        lr=how.learning_rate,
        l1_penalty=how.sparsity_coefficient,
        warmup_steps=0,
        sparsity_warmup_steps=None,
        device=how.device,
    )
    with torch.no_grad():
        trainer.ae.encoder.weight.copy_(torch.from_numpy(arrays["W_enc"].T.copy()))
        trainer.ae.decoder.weight.copy_(torch.from_numpy(arrays["W_dec"].T.copy()))
    losses: list[Any] = []
    loss_of = trainer.loss

    def loss(*arguments: Any, **keywords: Any) -> Any:
        value = loss_of(*arguments, **keywords)
        losses[:] = [value.detach()]
        return value

    trainer.loss = loss
    updates = itertools.count()

    def step(x_BD: Any) -> Any:
        # as its training loop: activations and products in the dtype of autocast
        with torch.autocast(how.device, torch.bfloat16) if how.precision == "bfloat16" else contextlib.nullcontext():
            trainer.update(next(updates), x_BD.bfloat16() if how.precision == "bfloat16" else x_BD)
        return losses[-1]

    return step


def _sae_lens(arrays: dict[str, np.ndarray], how: How) -> Step:
    import torch
    from sae_lens.config import SAETrainerConfig
    from sae_lens.saes.gated_sae import GatedTrainingSAE, GatedTrainingSAEConfig
    from sae_lens.training.sae_trainer import SAETrainer

    logging.disable(logging.WARNING)
    width, features = arrays["W_enc"].shape
    sae = GatedTrainingSAE(
        GatedTrainingSAEConfig(d_in=width, d_sae=features, l1_coefficient=how.sparsity_coefficient, device=how.device)
    )
    with torch.no_grad():
        sae.W_enc.copy_(torch.from_numpy(arrays["W_enc"]))
        sae.W_dec.copy_(torch.from_numpy(arrays["W_dec"]))
    config = SAETrainerConfig(
        total_training_samples=10**9,
        train_batch_size_samples=1000,
        lr=how.learning_rate,
        lr_end=how.learning_rate,
        adam_beta1=0.0,
        device=how.device,
        autocast=how.precision == "bfloat16",
    )
    trainer = SAETrainer(config, sae, data_provider=iter(()))

    def step(x_BD: Any) -> Any:
        return trainer._train_step(sae, x_BD).loss.detach()

    return step
