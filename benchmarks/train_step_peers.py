"""SAELens and dictionary_learning behind one interface, for `train_step.py`. Neither is needed to train."""

import dataclasses
import importlib.util
import logging
from collections.abc import Callable
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True)
class Peer:
    """Another trainer: `step(x)` makes one update on x [B, D] and returns its loss before the update.

    `same_loss` says whether that loss is defined as ours is.
    """

    step: Callable[[np.ndarray], float]
    same_loss: bool


def installed(stacked: Any, sparsity_coefficient: float, learning_rate: float) -> dict[str, Peer]:
    """The peers that can be imported, each starting from the first of our stacked autoencoders [S, ...]."""
    makers = {"sae_lens": _sae_lens, "dictionary_learning": _dictionary_learning}
    found = {}
    for package, maker in makers.items():
        if importlib.util.find_spec("torch") is None or importlib.util.find_spec(package) is None:
            print(f"  {package} is not installed: left out")
            continue
        arrays = {
            name: np.array(getattr(stacked, name)[0]) for name in type(stacked).feature_axes if _has(stacked, name)
        }
        found[package] = maker(arrays, sparsity_coefficient, learning_rate)
    return found


def _has(stacked: Any, name: str) -> bool:
    return getattr(stacked, name) is not None


def _dictionary_learning(arrays: dict[str, np.ndarray], sparsity_coefficient: float, learning_rate: float) -> Peer:
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

    return Peer(step, same_loss=True)


def _sae_lens(arrays: dict[str, np.ndarray], sparsity_coefficient: float, learning_rate: float) -> Peer:
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

    return Peer(step, same_loss=False)
