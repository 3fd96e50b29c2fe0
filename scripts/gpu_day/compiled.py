"""What compiled blocks gain over an edit, once compiling is paid for."""

from __future__ import annotations

from collections.abc import Iterator

from loraedit.families import open_family
from loraedit.runtime.memory import place
from loraedit.sampling.transformers import Held
from loraedit.settings import Resources
from scripts.gpu_day.bench import Bench, free
from scripts.gpu_day.measuring import cosine
from scripts.gpu_day.plans import KEPT
from scripts.gpu_day.random_weights import random_transformer
from scripts.gpu_day.sampling import Denoiser
from scripts.gpu_day.stage import Finding, Stage, alike, told
from scripts.gpu_day.steps import take_steps, use_compiler

__all__ = ["COMPILED_STAGE"]

COMPILED = Resources(checkpointing=True, compile_blocks=True)


def _run(bench: Bench) -> Iterator[Finding]:
    scale = bench.scale
    steps, passes = bench.plans.counts(scale.short, scale.small)
    plain = take_steps(bench, KEPT, scale.short, 1, counted=False)
    free()
    compiled = take_steps(bench, COMPILED, scale.short, 1, counted=False)
    yield alike("compiled blocks: gradients", cosine(compiled.gradients, plain.gradients))
    yield _gain("training steps", plain.step_s, compiled.step_s, compiled.first_s, steps)
    free()
    yield from _sampled(bench, passes)


def _sampled(bench: Bench, passes: int) -> Iterator[Finding]:
    transformer = random_transformer(bench, Resources())
    denoiser = Denoiser(bench, bench.scale.short, Held(open_family(bench.card).experts[0], transformer))
    velocity, plain_s = denoiser.velocity(), denoiser.pass_s()
    place(transformer, Resources(compile_blocks=True), bench.device)
    use_compiler(bench, transformer)
    first_s = denoiser.pass_s()
    yield alike("compiled blocks: velocity", cosine(denoiser.velocity(), velocity))
    yield _gain("sampling passes", plain_s, denoiser.pass_s(), first_s, passes)


def _gain(what: str, plain_s: float, compiled_s: float, first_s: float, count: int) -> Finding:
    """Returns the time that compiling saves over an edit; the first step holds the compiling itself."""
    saved = count * (plain_s - compiled_s) - (first_s - compiled_s)
    note = f"{plain_s:.2f} s each, compiled {compiled_s:.2f} s, the first {first_s:.1f} s"
    return told(f"compiled blocks: time saved over {count} {what}", saved, "s", note=note)


COMPILED_STAGE = Stage(
    "compiled", 120, "compiled blocks in training and in sampling: the gain over an edit, net of compiling",
    "gradients and velocity have a cosine above 0.99 with those of blocks that are not compiled", _run,
)  # fmt: skip
