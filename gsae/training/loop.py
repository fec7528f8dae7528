"""The training loop: batches in, metrics out, checkpoints kept; interrupted anywhere, it ends as if it never was.

Nothing random is kept: the batch of step t and every key are functions of (seed, t), so the state after t updates and t
itself are all that a run needs to go on.
"""

import contextlib
import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from gsae.activations.batches import Batch, Batches
from gsae.errors import Interrupted, SettingError
from gsae.mesh import fetch, in_turn
from gsae.processes.terminal import LOG
from gsae.throughput import count_flops, peak_flops
from gsae.training.calibration import calibrated
from gsae.training.checkpoints import Checkpoints
from gsae.training.groups import Group
from gsae.training.logging import Logger
from gsae.training.preemption import StopRequest, watch_signals
from gsae.training.resampling import make_resampling
from gsae.training.step import GroupState, StepSettings, abstract_state, initial_state, make_step

States = dict[str, GroupState]  # by Group.name
OnEvaluate = Callable[[int, States], None]
Before = Callable[[States, Callable[[str], None]], None]  # the states, and what takes lines for the terminal


class Producer(Protocol):
    """Whatever makes the rows, in a thread of its own, while the sweep trains on them."""

    @property
    def idle_seconds(self) -> float:
        """For how long it has waited so far because nobody needed more rows yet."""
        ...

    def close(self) -> None:
        """Stops it at once: rows that are being waited for do not come any more."""
        ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class Resampling:
    """When dead features are revived, and from how many inputs.

    Attributes:
        steps: before which updates.
        inputs: rows that are scored for candidates, those of the coming batches; rounded up to whole batches.
    """

    steps: tuple[int, ...] = ()
    inputs: int = 0


def train(
    groups: Sequence[Group],
    batches: Batches,
    *,
    steps: int,
    settings: Mapping[str, StepSettings],
    mesh: Mesh,
    checkpoints: Checkpoints,
    logger: Logger,
    resampling: Resampling | None = None,
    on_evaluate: OnEvaluate | None = None,
    evaluate_every: int = 0,
    initialise: Callable[[Group], GroupState] | None = None,
    producer: Producer | None = None,
    begin: int = 0,
    before: Mapping[int, Before] | None = None,
) -> States:
    """Trains all groups side by side on the same batches, from the newest good checkpoint if there is one.

    Args:
        groups: what to train; see `group_points`.
        batches: the batch of every step, for all sites of the groups, on `mesh`.
        steps: updates of every point.
        settings: of the step, by site.
        mesh: with the axes of `gsae.mesh`.
        checkpoints, logger: where the state and the metrics go; the caller closes them.
        resampling: when dead features are revived; None for never.
        on_evaluate: called with (updates made, states) every `evaluate_every` steps (0: never). What it raises ends the
            run; the last checkpoint stays. It must not keep the arrays: the next step consumes them.
        evaluate_every: steps between two calls.
        initialise: the state of a group before the first update and before it is calibrated; by default
            `initial_state`.
        begin: updates that this state has behind it; with some it is calibrated already.
        producer: makes the rows of `batches` meanwhile; its waiting is logged, and it is closed at the end.
        before: by step, what is done before that update; it may put other states of the same kind in their place.
            A run that resumes at that step does it again.

    Returns:
        The states after `steps` updates by `Group.name`; they are also in the newest checkpoint.

    Raises:
        Interrupted: after SIGTERM or SIGINT, with the state saved.
        RunError: when a checkpoint cannot be written, or all are damaged.
        SettingError: when the checkpoints come from other settings.
    """
    with watch_signals() as stop, contextlib.ExitStack() as opened:
        # The order in which a run resumes:
        # 1. The state from the newest checkpoint whose every byte is as it was written; without one, the first one,
        #    with what architectures take from a sample of the rows.
        start, states = _first_states(groups, batches, settings, mesh, checkpoints, steps, initialise, begin)
        if start == steps:
            return states
        # 2. Batches from that step on. Keys are folded from (seed, step) in the programs: nothing else to restore.
        stream: Any = batches.stream(start, steps)
        opened.callback(stream.close)  # ends the threads that read ahead
        waiting = {"stall_share": lambda: batches.stall_seconds}
        if producer:
            opened.callback(producer.close)  # before them: they wait for it
            waiting["language_model_stall_share"] = lambda: producer.idle_seconds
        first = next(stream)
        programs, flops = _compile(groups, states, first, settings, mesh)
        # 3. Logs, cut back to that step: what a killed process logged beyond it comes again, from the same updates.
        names = {group.name: [point.name for point in group.points] for group in groups}
        peak = peak_flops(mesh.devices.flat[0])
        logger.start(start, names, flops, peak and peak * mesh.size, waiting)

        previous = None
        for t, batch in zip(range(start, steps), itertools.chain([first], stream), strict=True):
            if before and t in before:
                with logger.paused():
                    before[t](states, logger.say)
            if resampling and t in resampling.steps:
                _resample(groups, states, batches, t, resampling, settings, mesh, logger.say)
            metrics = _update(programs, states, batch, t, mesh)
            # The device has update t to do. Meanwhile the one before is waited for, and read if it is one to log: the
            # device never idles, and no more than two batches wait on it.
            jax.block_until_ready(previous)
            logger.flush()
            done, previous = t + 1, metrics
            if logger.due(done):
                logger.hand_over(done, metrics)
            _keep(done, states, steps, checkpoints, logger, stop)
            if on_evaluate and evaluate_every and done % evaluate_every == 0 and done < steps:
                logger.flush()
                with logger.paused():
                    on_evaluate(done, states)
        checkpoints.wait()
        return states


def _first_states(
    groups: Sequence[Group],
    batches: Batches,
    settings: Mapping[str, StepSettings],
    mesh: Mesh,
    checkpoints: Checkpoints,
    steps: int,
    initialise: Callable[[Group], GroupState] | None,
    begin: int,
) -> tuple[int, States]:
    """Updates made so far, and the states."""
    widths = {group.name: batches.superblocks.width(group.site) for group in groups}
    targets = {group.name: abstract_state(group, widths[group.name], mesh) for group in groups}
    restored = checkpoints.restore_newest(targets, _say)
    if restored is None:
        make = initialise or (lambda group: initial_state(group, widths[group.name], mesh))
        if begin:
            return begin, {group.name: make(group) for group in groups}
        fresh = {}
        for group in groups:
            fresh[group.name], rows = calibrated(group, make(group), batches, settings[group.site], mesh)
            if rows:
                _say(f"{group.describe()}: calibrated on {rows:,} rows")
        return 0, fresh
    start, states, _ = restored
    if start > steps:
        raise SettingError("config.training.steps", steps, f"{checkpoints.directory} is at step {start} already")
    _say(f"training resumes at step {start} of {steps}")
    LOG.info("training resumes at step %d", start)
    return start, {group.name: _padded(group, states[group.name], targets[group.name]) for group in groups}


def _padded(group: Group, state: GroupState, target: GroupState) -> GroupState:
    """A state saved with another padding of the sweep axis, with this group's padding."""
    saved = state.active.shape[0]
    if saved == group.size:
        return state
    members = len(group.points)

    def pad(state: GroupState) -> GroupState:
        state = jax.tree.map(lambda leaf: jnp.concatenate([leaf[:members], *[leaf[:1]] * group.padding]), state)
        return dataclasses.replace(state, active=state.active & (jnp.arange(group.size) < members))

    return jax.jit(pad, out_shardings=jax.tree.map(lambda leaf: leaf.sharding, target))(state)


def _compile(
    groups: Sequence[Group], states: States, batch: Batch, settings: Mapping[str, StepSettings], mesh: Mesh
) -> tuple[dict[str, tuple[str, Any]], float]:
    """Each group's site and compiled step by name, and the FLOPs of one update of all; says what is trained."""
    programs, total = {}, 0.0
    for group in groups:
        step: Any = make_step(group, settings[group.site], mesh)
        with jax.set_mesh(mesh):
            traced = step.trace(states[group.name], batch[group.site]["x"], _on_mesh(0, mesh))
            programs[group.name] = (group.site, in_turn(traced.lower().compile()))
        flops = count_flops(traced.jaxpr)
        _say(f"{group.describe()}; {flops / group.size / 1e9:.3g} GFLOP a step each")
        total += flops
    return programs, total


def _update(
    programs: Mapping[str, tuple[str, Any]], states: States, batch: Batch, t: int, mesh: Mesh
) -> dict[str, dict[str, jax.Array]]:
    """Dispatches update t of all groups; `states` holds the new ones afterwards. Returns the metrics, on the device."""
    step, metrics = _on_mesh(t, mesh), {}
    # Nothing may cross to the device unasked: it would make every update wait.
    with jax.transfer_guard("disallow"):
        for name, (site, program) in programs.items():
            states[name], metrics[name] = program(states[name], batch[site]["x"], step)
    return metrics


def _keep(done: int, states: States, steps: int, checkpoints: Checkpoints, logger: Logger, stop: StopRequest) -> None:
    """Saves the state after `done` updates when it is time to, and stops when a signal asked for it."""
    stopping = stop.reached(done) and done < steps
    checkpoints.check()
    if stopping or done == steps or checkpoints.due(done):
        logger.flush()  # a checkpoint never stands for lines that are not written yet
        checkpoints.save(done, states)
    if stopping:
        checkpoints.wait()
        raise Interrupted(f"{stop.signal_name}: saved at step {done} of {steps}")


def _resample(
    groups: Sequence[Group],
    states: States,
    batches: Batches,
    t: int,
    resampling: Resampling,
    settings: Mapping[str, StepSettings],
    mesh: Mesh,
    say: Callable[[str], None],
) -> None:
    """Revives dead features before update t, from the inputs of the coming batches."""
    stop = t + -(-resampling.inputs // batches.batch_size)
    for group in groups:
        resample = make_resampling(group, settings[group.site], mesh)
        coming: Any = batches.stream(t, stop)  # for each group again: its rows need not be held
        with contextlib.closing(coming), jax.set_mesh(mesh):
            inputs = (batch[group.site]["x"] for batch in coming)
            states[group.name], counts = resample(states[group.name], inputs, t)
        counts = fetch(counts)
        dead, revived = (int(np.sum(counts[name][: len(group.points)])) for name in ("dead", "revived"))
        say(f"step {t}: {revived:,} of {dead:,} dead features revived in {group.describe()}")


def _on_mesh(step: int, mesh: Mesh) -> jax.Array:
    """An int32 scalar on every device."""
    return jax.make_array_from_callback((), NamedSharding(mesh, PartitionSpec()), lambda _: np.int32(step))


def _say(line: str) -> None:
    print(line, flush=True)  # of several processes, each into its own file
