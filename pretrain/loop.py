"""The training loop that VAE and transformer share: resume, step, average, judge, save, stop in time."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from pretrain.checkpoints import Progress, append_log, load_state, save_state
from pretrain.optim import Ema, set_learning_rate
from pretrain.schedule import Budget

__all__ = ["Course", "Stopped", "run"]

FORGETTING = 0.97
SYNC_STEPS = 8
"""An accelerator is waited for after so many steps; in between, work queues up."""


class Stopped(Exception):
    """The process was asked to stop; the state is saved."""


@dataclass
class Course:
    """A stretch of training with one schedule.

    Attributes:
        name: in the log.
        model: what is trained; parameters that do not require gradients stay as they are.
        ema: the averaged weights.
        optimizers: over the model.
        budget: steps or seconds.
        rate: learning rate by (share of the budget used, step).
        loss: loss by (step, share).
        judge: figures on held-out clips, of the model as it is then.
        state: where the state is kept.
        log: JSON lines.
        every: steps from one judgement to the next; with a time budget its share is used instead.
    """

    name: str
    model: nn.Module
    ema: Ema
    optimizers: list[torch.optim.Optimizer]
    budget: Budget
    rate: Callable[[float, int], float]
    loss: Callable[[int, float], Tensor]
    judge: Callable[[], dict[str, float]]
    state: Path
    log: Path
    every: int


def run(course: Course) -> None:
    """Trains until the budget is used, from where it was stopped.

    Raises:
        Stopped: SIGTERM or SIGINT came.
    """
    progress = load_state(course.state, course.model, course.ema, course.optimizers)
    if course.budget.over(progress.step, progress.spent):
        return
    device, losses, cost = next(course.model.parameters()).device, [], 0.0
    if progress.step == 0:
        append_log(course.log, course=course.name, step=0, seconds=0, **_judged(course))
    with _asked_to_stop() as asked:
        clock, judged_at = _Clock(progress.spent), course.budget.share(progress.step, progress.spent)
        last = False
        while not last:
            losses.append(_step(course, progress.step, course.budget.share(progress.step, clock.spent())))
            progress.step += 1
            if device.type != "cpu" and progress.step % SYNC_STEPS == 0:
                torch.accelerator.synchronize()
            progress.spent = clock.tick()
            share = course.budget.share(progress.step, progress.spent)
            last = course.budget.over(progress.step, progress.spent, clock.slowest + cost)
            if last and course.budget.seconds is not None:
                progress.spent = course.budget.seconds
            if last or asked or _due(course, progress.step, share - judged_at):
                began, judged_at = time.monotonic(), share
                _report(course, progress, losses)
                cost = max(cost, time.monotonic() - began)
                losses.clear()
                clock.skip()
            if asked and not last:
                raise Stopped


class _Clock:
    """Seconds spent in all sessions, and what a slow step takes; the first steps, which compile, are soon forgotten."""

    def __init__(self, before: float) -> None:
        self._last = time.monotonic()
        self._start = self._last - before
        self.slowest = 0.0

    def spent(self) -> float:
        return time.monotonic() - self._start

    def tick(self) -> float:
        """Ends a step; returns the seconds spent."""
        now = time.monotonic()
        self.slowest, self._last = max(FORGETTING * self.slowest, now - self._last), now
        return now - self._start

    def skip(self) -> None:
        """Leaves what was done since the last step out of the step's time."""
        self._last = time.monotonic()


def _due(course: Course, step: int, share_since: float) -> bool:
    return (
        step % course.every == 0 if course.budget.seconds is None else share_since >= course.every / course.budget.steps
    )


def _step(course: Course, step: int, share: float) -> Tensor:
    """Takes one optimiser step; returns the loss without waiting for it."""
    set_learning_rate(course.optimizers, course.rate(share, step))
    loss = course.loss(step, share)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(course.model.parameters(), 1.0)
    for optimizer in course.optimizers:
        optimizer.step()
        optimizer.zero_grad()
    course.ema.update(course.model, step)
    return loss.detach()


def _report(course: Course, progress: Progress, losses: list[Tensor]) -> None:
    """Saves the state, then judges the averaged weights and logs it."""
    train = float(torch.stack(losses).mean())
    save_state(course.state, progress, course.model, course.ema, course.optimizers)
    append_log(
        course.log, course=course.name, step=progress.step, seconds=round(progress.spent),
        train=round(train, 4), **_judged(course),
    )  # fmt: skip
    if train != train:
        raise SystemExit(f"{course.name}: the loss is not a number. Lower the learning rate.")


def _judged(course: Course) -> dict[str, float]:
    """Judges the averaged weights; the model is then as before."""
    live = {key: value.clone() for key, value in course.model.state_dict().items()}
    course.model.load_state_dict(course.ema.weights)
    figures = course.judge()
    course.model.load_state_dict(live)
    return figures


@contextmanager
def _asked_to_stop() -> Iterator[list[int]]:
    """Yields a list that SIGTERM and SIGINT add to, so that a step in progress ends first."""
    asked: list[int] = []
    signals = (signal.SIGTERM, signal.SIGINT)
    before = {number: signal.signal(number, lambda got, _: asked.append(got)) for number in signals}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
