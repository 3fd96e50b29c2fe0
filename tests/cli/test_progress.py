"""Progress is readable in a terminal of 80 columns and in a log."""

from __future__ import annotations

import io
import re

from rich.console import Console

from loraedit.cli.phase_times import PhaseTimes, duration
from loraedit.cli.progress import BarProgress, LogProgress, Progress


class FakeClock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def run_an_edit(progress: Progress, clock: FakeClock) -> None:
    """Sends the events of an edit of 182 s: two segments, a preview on the way, and a step every 2 s."""
    events = [("read", 0, 1, 0.5), ("read", 1, 1, 0.5), ("prepare", 0, 1, 0.0), ("prepare", 1, 1, 9.0)]
    events += [("train", 0, 1, 1.0), *(("train", step, 50, 2.0) for step in range(1, 51)), ("train", 1, 1, 0.0)]
    for part in (0, 1):
        steps = [(part * 10 + step, 20) for step in range(1, 11)]
        events += [("sample", part, 2, 0.0), *(("sample", *step, 3.0) for step in steps), ("sample", part + 1, 2, 0.0)]
        events += [("decode", part, 2, 0.0), ("decode", part + 1, 2, 5.0)]
    for phase, done, total, seconds in events:
        clock.now += seconds
        progress.tick()
        progress(phase, done, total, f"transformer loss {1 / done:.4f}" if phase == "train" and done else "")
        if (phase, done) == ("train", 25):
            progress("preview", 1, 1, "run/preview/train-000025.png")


def test_a_log_gets_a_line_for_each_phase_and_one_every_30_seconds() -> None:
    clock, stream = FakeClock(), io.StringIO()
    with LogProgress(Console(file=stream, width=80), 2.0, clock) as progress:
        run_an_edit(progress, clock)
    assert stream.getvalue().splitlines() == [
        "Reading the clip: done in 0.5 s",
        "Tracing motion: done in 9.0 s",
        "Training the LoRA: 14 of 50, about 1 min 10 s left (transformer loss 0.0714)",
        "Preview: run/preview/train-000025.png",
        "Training the LoRA: 39 of 50, about 20 s left (transformer loss 0.0256)",
        "Training the LoRA: done in 1 min 40 s (transformer loss 0.0200)",
        "Generating: 9 of 20, about 30 s left",
        "Generating: 18 of 20, about 3 s left",
        "Generating: done in 1 min 00 s",
        "Decoding: done in 10 s",
    ]


def test_a_log_has_no_control_codes_and_nothing_of_a_quick_command() -> None:
    clock, stream = FakeClock(), io.StringIO()
    with LogProgress(Console(file=stream), 1000.0, clock) as progress:
        run_an_edit(progress, clock)
    assert stream.getvalue() == ""


def test_bars_fit_into_80_columns() -> None:
    clock, stream = FakeClock(), io.StringIO()
    console = Console(file=stream, width=80, force_terminal=True, legacy_windows=False, _environ={})
    with BarProgress(console, 2.0, clock) as progress:
        run_an_edit(progress, clock)
    lines = [line.rstrip() for line in last_frame(stream.getvalue())]
    assert [line[:17].rstrip() for line in lines] == [
        "Reading the clip", "Tracing motion", "Training the LoRA", "Generating", "Decoding",
    ]  # fmt: skip
    assert all(len(line) <= 80 for line in lines)
    assert lines[2].endswith("50/50 1 min 40 s   transformer loss 0.0200")


def last_frame(written: str) -> list[str]:
    """Returns the lines of a terminal that shows only the last picture of a live display."""
    frame = written.split("\x1b[2K")[-1]
    return [re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", line) for line in frame.strip().splitlines()][:5]


def test_a_phase_counts_its_own_time_only() -> None:
    clock = FakeClock()
    times = PhaseTimes(clock)
    for name, done, total, seconds in [
        ("sample", 0, 2, 0),
        ("sample", 1, 2, 4),
        ("decode", 1, 2, 10),
        ("sample", 2, 2, 1),
    ]:
        clock.now += seconds
        phase = times.event(name, done, total, "")
    assert phase.seconds == 14.0
    assert times.phases["decode"].seconds == 1.0


def test_the_time_left_of_a_continued_training_counts_the_new_steps() -> None:
    clock = FakeClock()
    times = PhaseTimes(clock)
    for done, total in [(0, 1), (501, 1000), (502, 1000), (503, 1000)]:
        clock.now += 2.0
        phase = times.event("train", done, total, "")
    assert phase.left_s == 2.0 * 497


def test_durations_are_short() -> None:
    assert [duration(seconds) for seconds in (0.42, 12.3, 185.0, 3725.0)] == [
        "0.4 s",
        "12 s",
        "3 min 05 s",
        "1 h 02 min",
    ]
