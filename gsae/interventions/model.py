"""A language model with an autoencoder in it: its features seen and changed, while it predicts or writes.

    lm = gsae.load_language_model()
    run = lm.run_with(sae, lm.encode("def mean(values):"), keep_error=False)
    run.f_BTF, run.x_hat_BTW, run.loss, run.clean_loss
    lm.generate("def ", sae=sae, edits=[ablate(7), clamp(3, 2.0), steer(5, 4.0)])

Where an autoencoder stands in: at every position but the first of a sequence and special tokens, which it was not
trained on (as in evaluation).

Axes: B sequences, T positions, W site width, F features, V vocabulary, P = T - 1 predictions.
"""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from gsae.autoencoders.base import Autoencoder
from gsae.evaluation.splice import prefix, score, spliced_stream
from gsae.interventions import programs
from gsae.interventions.edits import Edit, combined
from gsae.language_models import hub, loading
from gsae.language_models.sites import Site, names_of

LENGTHS = 64  # texts to write are padded to multiples of so many positions: each length is a program to compile


@dataclasses.dataclass(frozen=True)
class Run:
    """One pass with an autoencoder at a site, beside the pass without it.

    Attributes:
        site: where.
        x_BTW: the site's activations, as they were.
        f_BTF: their features, before the edits.
        x_hat_BTW: the reconstruction, after the edits.
        replaced_BT: where the autoencoder stood in.
        logits_BTV: of the next tokens.
        loss_BP: cross-entropy of each next token, nats.
        clean_loss_BP: the same without the autoencoder.
        kl_BP: KL(clean || this) of each prediction, nats.
    """

    site: str
    x_BTW: jax.Array
    f_BTF: jax.Array
    x_hat_BTW: jax.Array
    replaced_BT: jax.Array
    logits_BTV: jax.Array
    loss_BP: jax.Array
    clean_loss_BP: jax.Array
    kl_BP: jax.Array

    @property
    def loss(self) -> float:
        """Mean cross-entropy, nats a token."""
        return float(self.loss_BP.mean())

    @property
    def clean_loss(self) -> float:
        """Mean cross-entropy without the autoencoder."""
        return float(self.clean_loss_BP.mean())


@dataclasses.dataclass(frozen=True)
class LanguageModel(loading.LanguageModel):
    """A loaded language model, and what one does with autoencoders in it."""

    def encode(self, text: str) -> np.ndarray:
        """Token ids [1, T] of a text, begun as rows to train on are: by BOS, or by what separates documents."""
        first = self.bos_id if self.begins_with_bos else self.separator_id
        return np.asarray([([] if first is None else [first]) + self.tokenizer.encode(text)], np.int32)

    def decode(self, ids: Iterable[int]) -> str:
        """The text of token ids."""
        return self.tokenizer.decode(np.asarray(ids).tolist())

    def activations(self, tokens_BT: Any, sites: Sequence[str]) -> dict[str, jax.Array]:
        """What the sites (`name.layer`) hold for some tokens, [B, T, W] by site; later layers are not run."""
        parsed = tuple(self._site(site) for site in sites)
        graph, state = nnx.split(self.model)
        captured = programs.capture(state, self._ids(tokens_BT), graph=graph, sites=parsed)
        return {str(site): captured[site] for site in parsed}

    def run_with(
        self,
        sae: Autoencoder,
        tokens_BT: Any,
        *,
        site: str | None = None,
        edits: Sequence[Edit] = (),
        keep_error: bool = True,
        where_BT: Any = None,
    ) -> Run:
        """Runs the model with an autoencoder's reconstruction in place of a site's activation.

        Args:
            sae: takes raw activations of the site.
            tokens_BT: token ids, of no more positions than the model has.
            site: `name.layer`; without, what the autoencoder's metadata says.
            edits: what becomes of its features; later ones see what earlier ones made.
            keep_error: whether what the autoencoder does not reconstruct is added back, so that without edits nothing
                changes at all; otherwise the model sees the reconstruction alone.
            where_BT: bool, where it stands in; without, everywhere but position 0 and special tokens.

        Raises:
            ValueError: for a site that the model does not have, or has with another width; for a feature or tokens
                that do not exist.
        """
        place = self._place(sae, site)
        tokens_BT = self._ids(tokens_BT)
        times_F, plus_F = combined(edits, sae.W_dec.shape[0])
        where_BT = self._replaced(tokens_BT) if where_BT is None else jnp.asarray(where_BT, bool)
        graph, state = nnx.split(self.model)
        before = prefix(state, tokens_BT, graph=graph, site=place)
        f_BTF, x_hat_BTW, value_BTW = programs.through(sae, before.original_BTW, times_F, plus_F, keep_error=keep_error)
        streams = tuple(
            spliced_stream(state, before, value, where_BT, graph=graph, site=place)
            for value in (before.original_BTW, value_BTW)
        )
        (clean_BP, loss_BP), (_, kl_BP) = score(state, streams, tokens_BT, graph=graph)
        return Run(
            site=str(place),
            x_BTW=before.original_BTW,
            f_BTF=f_BTF,
            x_hat_BTW=x_hat_BTW,
            replaced_BT=where_BT,
            logits_BTV=programs.unembed(state, streams[1], graph=graph),
            loss_BP=loss_BP,
            clean_loss_BP=clean_BP,
            kl_BP=kl_BP,
        )

    def generate(
        self,
        prompt: Any,
        new_tokens: int = 32,
        *,
        sae: Autoencoder | None = None,
        site: str | None = None,
        edits: Sequence[Edit] = (),
        keep_error: bool = True,
        temperature: float = 0.0,
        samples: int = 1,
        seed: int = 0,
    ) -> np.ndarray:
        """Continues a prompt, with or without an autoencoder at a site: token ids [samples, T + new_tokens].

        The prompt is read once; for every further token only that token is computed, as a pass over the whole text
        would (`run_with`). One program serves all prompts and numbers of tokens whose sum comes to the same multiple
        of 64. After EOS, EOS.

        Args:
            prompt: a text, or token ids [T] or [1, T].
            new_tokens: how many are added.
            sae, site, edits, keep_error: as for `run_with`; without an autoencoder the model is as it is.
            temperature: of the draws; 0: the likeliest token always.
            samples: continuations drawn side by side.
            seed: of the draws.

        Raises:
            ValueError: as for `run_with`; when the model has too few positions; for edits without an autoencoder.
        """
        if temperature < 0:
            raise ValueError(f"temperature = {temperature}: must be at least 0")
        if new_tokens < 0 or samples < 1:
            raise ValueError(f"new_tokens = {new_tokens}, samples = {samples}: must be at least 0 and 1")
        if sae is None and (edits or site is not None):
            raise ValueError("edits and a site need an autoencoder: sae=")
        ids = self.encode(prompt) if isinstance(prompt, str) else np.atleast_2d(np.asarray(prompt, np.int32))
        start = ids.shape[1]
        if ids.shape[0] != 1 or not start:
            raise ValueError(f"prompt of shape {ids.shape}: must be one sequence of at least one token")
        end = start + new_tokens
        length = max(end, min(-(-end // LENGTHS) * LENGTHS, self.settings.context_length))
        prompt_1T = self._ids(np.pad(ids, ((0, 0), (0, length - start))))
        edited = None if sae is None else combined(edits, sae.W_dec.shape[0])
        place = None if sae is None else self._place(sae, site)
        graph, state = nnx.split(self.model)
        writing = programs.Writing(
            start=jnp.int32(start),
            stop=jnp.int32(end),
            end=jnp.int32(-1 if self.eos_id is None else self.eos_id),
            special=jnp.asarray(self.special_ids, jnp.int32),
            temperature=jnp.float32(temperature),
            key=jax.random.key(seed),
        )
        static = {"graph": graph, "site": place, "keep_error": keep_error, "samples": samples}
        return np.asarray(programs.write(state, sae, edited, prompt_1T, writing, **static))[:, :end]

    def _ids(self, tokens_BT: Any) -> jax.Array:
        tokens_BT = np.atleast_2d(np.asarray(tokens_BT))
        vocabulary, most = self.settings.vocabulary, self.settings.context_length
        if tokens_BT.shape[1] > most:
            raise ValueError(f"{tokens_BT.shape[1]} tokens: the model has {most} positions")
        if tokens_BT.size and not (tokens_BT.min() >= 0 and tokens_BT.max() < vocabulary):
            raise ValueError(
                f"token ids must be from 0 to {vocabulary - 1}, not {tokens_BT.min()} to {tokens_BT.max()}"
            )
        return jnp.asarray(tokens_BT, jnp.int32)

    def _replaced(self, tokens_BT: jax.Array) -> jax.Array:
        return programs.counts(tokens_BT, jnp.asarray(self.special_ids, jnp.int32))

    def _site(self, text: str) -> Site:
        site = Site.parse(text)
        if site.name not in names_of(self.settings) or site.layer >= self.settings.num_layers:
            layers = self.settings.num_layers
            raise ValueError(f"{text}: the model has {', '.join(names_of(self.settings))} in layers 0 to {layers - 1}")
        return site

    def _place(self, sae: Autoencoder, site: str | None) -> Site:
        if site is None:
            about = sae.metadata
            if about.get("site") is None or about.get("layer") is None:
                raise ValueError("the autoencoder's metadata do not say where it belongs: site='name.layer'")
            site = f"{about['site']}.{about['layer']}"
        place = self._site(site)
        width, own = self.model.site_width(place.name), sae.W_dec.shape[1]
        if width != own:
            raise ValueError(f"{site}: has width {width}; the autoencoder takes activations of width {own}")
        return place


def load_language_model(name: str = hub.BUNDLED, dtype: str = "float32", *, revision: str = hub.MAIN) -> LanguageModel:
    """Loads a language model, as `language_models.loading` does, to run it with autoencoders."""
    loaded = loading.load_language_model(name, dtype, revision=revision)
    return LanguageModel(**{field.name: getattr(loaded, field.name) for field in dataclasses.fields(loaded)})
