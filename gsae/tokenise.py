"""The first stage of a run: text into two token stores, training and held out."""

import itertools
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from gsae import artifacts, schema
from gsae.errors import SettingError
from gsae.job import Job
from gsae.judge import tokens_before_those_apart
from gsae.processes.waiting import wait_for_all

PARTS = ("train", "held_out")
PORTIONS = "portions"  # what is encoded so far, until the stores are finished


def tokenise(job: Job) -> None:
    """Text into two token stores, training and held out, that share no document and no near-duplicate (`splits.py`)."""
    from gsae.evaluation.batches import choose_sequences

    if not job.has_language_model:
        return  # rows from elsewhere have no text
    made_from = _made_from(job)
    paths = {part: job.tokens_path / part for part in PARTS}
    finished = [_is_finished(path, made_from) for path in paths.values()]  # refuses any that differs
    if not all(finished):
        _write(job, paths, made_from)
    if jax.process_index() == 0:
        shutil.rmtree(job.tokens_path / PORTIONS, ignore_errors=True)
    evaluation = job.config.evaluation  # that something is left to judge by is known now, not after the training
    choose_sequences(job.tokens("held_out"), evaluation.tokens, job.config.seed, evaluation.skip_tokens)
    tokens_before_those_apart(job)


def _made_from(job: Job) -> dict[str, Any]:
    text = schema.plain(job.config.text)
    del text["store"]
    if job.config.text.shuffle_buffer:
        text["seed"] = job.config.seed
    return {"text": text, "language_model": job.language_model.fingerprint}


def _is_finished(path: Path, wanted: Mapping[str, Any]) -> bool:
    """Whether a finished store stands at `path`; one that was made from something else is refused."""
    manifest = artifacts.read_manifest(path)
    if manifest is None:
        return False
    found = manifest.get("made_from", {})
    for key in wanted:
        if found.get(key) != wanted[key]:
            allowed = (
                f"was made with {key} = {found.get(key)!r}, this run has {wanted[key]!r}; choose another directory"
            )
            raise SettingError("config.text.store", str(path), allowed)
    return True


def _write(job: Job, paths: Mapping[str, Path], made_from: Mapping[str, Any]) -> None:
    """Every process encodes its portions; the first one then packs them all."""
    from gsae.text.portions import encode_portions

    portions = job.tokens_path / PORTIONS
    source, plan = _source(job), _plan(job)
    process = jax.process_index(), jax.process_count()
    tokenizer = job.language_model.tokenizer
    around = _around(job)  # refuses what the language model does not have before the work is done
    count = encode_portions(portions, source, tokenizer.encode_batch, plan, made_from=made_from, process=process)
    wait_for_all("portions")
    if jax.process_index() == 0:
        for part, path in paths.items():
            _pack(job, portions, count, part, path, {**around, "manifest": {"made_from": made_from}})
    wait_for_all("stores")


def _source(job: Job) -> Any:
    from gsae.text.content import Content
    from gsae.text.sources import open_source

    text, render = job.config.text, None
    if text.content == "chat":
        from gsae.language_models.chat import chat_renderer

        render = chat_renderer(job.language_model.directory)
    return open_source(
        text.source,
        paths=text.paths,
        name=text.name,
        revision=text.revision,
        configuration=text.configuration,
        split=text.split,
        streaming=text.streaming,
        content=Content(text.content, text.column, job.language_model.settings.vocabulary, render),
    )


def _plan(job: Job) -> Any:
    from gsae.text.portions import Plan

    text = job.config.text
    return Plan(text.held_out_fraction, text.compare_up_to, text.shuffle_buffer, job.config.seed, text.max_documents)


def _around(job: Job) -> dict[str, Any]:
    """The settings of the token stores, as `write_rows` takes them."""
    from gsae.text.marks import marks

    text, model = job.config.text, job.language_model
    around = marks(
        packing=text.packing,
        separator=text.separator,
        prepend_bos=text.prepend_bos,
        mask_special_tokens=text.mask_special_tokens,
        mask_tokens=text.mask_tokens,
        bos_id=model.bos_id,
        eos_id=model.eos_id,
        begins_with_bos=model.begins_with_bos,
        special_ids=model.special_ids,
        vocabulary=model.settings.vocabulary,
    )
    return {
        "context_length": text.context_length,
        "separator_id": around.separator_id,
        "bos_id": around.bos_id,
        "special_ids": around.uncounted_ids,
        "masked_positions": text.skip_positions,
        "packing": text.packing,
        "vocabulary": model.settings.vocabulary,
    }


def _pack(job: Job, portions: Path, count: int, part: str, path: Path, settings: Mapping[str, Any]) -> None:
    from gsae.text.portions import side_of
    from gsae.text.tokens import write_rows

    documents = side_of(portions, count, part == "held_out")
    first = next(documents, None)
    if first is None:
        allowed = f"leaves no document for the part {part}; give more text or another fraction"
        raise SettingError("config.text.held_out_fraction", job.config.text.held_out_fraction, allowed)
    store = write_rows(path, itertools.chain([first], documents), **settings)
    tokens = store.num_sequences * store.context_length
    print(f"{part}: {store.num_documents:,} documents, {tokens:,} tokens in rows of {store.context_length}")
