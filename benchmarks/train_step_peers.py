"""SAELens and dictionary_learning behind one interface, for `train_step.py`. Neither is needed to train.

Each runs in a process of its own, as it does for its users: `train_step.py` changes how its process keeps memory, which
makes their steps faster too.
"""

import importlib.util
import logging
import multiprocessing
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from gsae.training.allocator import keep_freed_memory

PACKAGES = ("sae_lens", "dictionary_learning")
SAME_LOSS = {"sae_lens": False, "dictionary_learning": True}  # whether its loss is defined as ours is
Step = Callable[[np.ndarray], float]


class Peer:
    """Another trainer in another process: `step(i)` makes one update on its input i and returns the loss before it.

    It starts from the first of our stacked autoencoders [S, ...]; `same_allocator` gives it our memory settings.
    """

    def __init__(
        self, package: str, stacked: Any, inputs: list[np.ndarray], settings: tuple[float, float], same_allocator: bool
    ) -> None:
        arrays = {
            name: np.array(array[0])
            for name in type(stacked).feature_axes
            if (array := getattr(stacked, name)) is not None
        }
        spawn = multiprocessing.get_context("spawn")
        self.connection, theirs = spawn.Pipe()
        arguments = (theirs, package, arrays, inputs, settings, same_allocator)
        self.process = spawn.Process(target=_serve, args=arguments, daemon=True)
        self.process.start()
        theirs.close()
        self.same_loss = SAME_LOSS[package]

    def step(self, i: int) -> float:
        """One update; waits for it."""
        self.connection.send(i)
        return self.connection.recv()

    def stop(self) -> None:
        """Ends the process and gives its memory back."""
        self.connection.send(None)
        self.process.join()


def installed() -> list[str]:
    """The peers that can be imported."""
    return [name for name in PACKAGES if importlib.util.find_spec("torch") and importlib.util.find_spec(name)]


def _serve(
    connection: Connection,
    package: str,
    arrays: dict[str, np.ndarray],
    inputs: list[np.ndarray],
    settings: tuple[float, float],
    same_allocator: bool,
) -> None:
    if same_allocator:
        keep_freed_memory()
    maker = {"sae_lens": _sae_lens, "dictionary_learning": _dictionary_learning}[package]
    step = maker(arrays, *settings)
    while (i := connection.recv()) is not None:
        connection.send(step(inputs[i]))


def _dictionary_learning(arrays: dict[str, np.ndarray], sparsity_coefficient: float, learning_rate: float) -> Step:
    import torch
    from dictionary_learning.trainers.gdm import GatedSAETrainer

    width, features = arrays["W_enc"].shape
    trainer = GatedSAETrainer(
        steps=10**6,
        activation_dim=width,
        dict_size=features,
        layer=0,
        lm_name="none",
        lr=learning_rate,
        l1_penalty=sparsity_coefficient,
        warmup_steps=0,
        sparsity_warmup_steps=None,
        device="cpu",
    )
    with torch.no_grad():
        trainer.ae.encoder.weight.copy_(torch.from_numpy(arrays["W_enc"].T.copy()))
        trainer.ae.decoder.weight.copy_(torch.from_numpy(arrays["W_dec"].T.copy()))
    losses: list[float] = []
    loss_of = trainer.loss

    def loss(*arguments: Any, **keywords: Any) -> Any:
        value = loss_of(*arguments, **keywords)
        losses.append(value.item())
        return value

    trainer.loss = loss

    def step(x_BD: np.ndarray) -> float:
        trainer.update(len(losses), torch.from_numpy(x_BD))
        return losses[-1]

    return step


def _sae_lens(arrays: dict[str, np.ndarray], sparsity_coefficient: float, learning_rate: float) -> Step:
    import torch
    from sae_lens.config import SAETrainerConfig
    from sae_lens.saes.gated_sae import GatedTrainingSAE, GatedTrainingSAEConfig
    from sae_lens.training.sae_trainer import SAETrainer

    logging.disable(logging.WARNING)
    width, features = arrays["W_enc"].shape
    sae = GatedTrainingSAE(GatedTrainingSAEConfig(d_in=width, d_sae=features, l1_coefficient=sparsity_coefficient))
    with torch.no_grad():
        sae.W_enc.copy_(torch.from_numpy(arrays["W_enc"]))
        sae.W_dec.copy_(torch.from_numpy(arrays["W_dec"]))
    config = SAETrainerConfig(
        total_training_samples=10**9,
        train_batch_size_samples=1000,
        lr=learning_rate,
        lr_end=learning_rate,
        adam_beta1=0.0,
    )
    trainer = SAETrainer(config, sae, data_provider=iter(()))

    def step(x_BD: np.ndarray) -> float:
        return trainer._train_step(sae, torch.from_numpy(x_BD)).loss.item()

    return step
