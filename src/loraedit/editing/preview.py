"""Previews of the first segment, before the full run and while it goes on. They never change a byte of the result.

With several edit targets, previews show the first. Each preview is one page of source, mask and result in
``RUN/preview/``:

    start-KEY.png      before training: a few sampling steps with the prior alone
    train-NNNNNN.png   after so many training steps, with ``preview_every``
    sample-NNNN.png    after so many sampling steps, with ``preview_every``

Each preview is reported as progress with its path as the note, and logged.
"""

from __future__ import annotations

import tempfile
from io import BytesIO
from pathlib import Path
from typing import Any

from torch import Tensor

from loraedit.diffusion.samples import Sample
from loraedit.editing.cache import StageCache
from loraedit.editing.context import EditContext
from loraedit.editing.decoding import decode_segment
from loraedit.editing.reporter import Reporter
from loraedit.editing.target_clip import TargetClip
from loraedit.families.base import Expert
from loraedit.masks.compositing import composite
from loraedit.masks.shaping import feather
from loraedit.masks.tube import MaskTube
from loraedit.runs.pictures import contact_sheet
from loraedit.runtime.ranks import processes
from loraedit.sampling.sampler import sample
from loraedit.sampling.schedule import experts_used
from loraedit.sampling.transformers import Held
from loraedit.settings import ResolvedSettings, SamplingSettings
from loraedit.storage.files import write_bytes
from loraedit.types import Clip, no_step

__all__ = ["Previews", "preview_notes", "wants_first_preview", "wants_previews"]

STEPS = 3
"""Denoising steps of a preview."""

START_SHARE = 0.1
"""The largest share of a run's passes through the model that a preview before it takes by default."""


def wants_previews(context: EditContext) -> bool:
    """Returns True if the edit has previews. Runs with several processes have none."""
    return processes() == 1 and (bool(context.settings.preview_every) or wants_first_preview(context))


def preview_notes(settings: ResolvedSettings) -> list[str]:
    """Says so if the user asks for previews that several processes do not make."""
    options = {"--preview": settings.preview, "--preview-every": settings.preview_every}
    asked = [name for name, value in options.items() if value]
    if processes() == 1 or not asked:
        return []
    return [f"An edit with several processes makes no previews; it ignores {' and '.join(asked)}."]


def wants_first_preview(context: EditContext) -> bool:
    """Returns True if the edit has a preview before training: as the settings say, or if it is worth its cost.

    Without a prior a model does not know the method yet, and its preview would mislead.
    """
    if context.settings.preview is not None:
        return context.settings.preview
    has_prior = any(context.prior_file(expert) for expert in context.family.experts)
    return has_prior and _first_preview_is_cheap(context)


def _first_preview_is_cheap(context: EditContext) -> bool:
    """Returns True if a preview takes a small share of the run's passes through the model."""
    settings, targets = context.settings, context.job.targets
    steps = sum(settings.training_steps(len(target.references)) for target in targets)
    training = 3 * steps * settings.batch_size  # a backward pass costs two forward
    sampling = settings.sampling_steps * len(context.job.segments) * len(targets)
    return START_SHARE * (training + sampling) >= STEPS


class Previews:
    """Makes previews of the first segment.

    Attributes:
        latest: the preview that was written last.

    Args:
        condition: the condition of the first segment.
        priors: LoRA file by expert, for the preview before training.
    """

    def __init__(
        self,
        context: EditContext,
        cache: StageCache,
        reporter: Reporter,
        clip: TargetClip,
        condition: Sample,
        priors: dict[str, Path],
    ) -> None:
        self.latest: Path | None = None
        self._context, self._cache, self._reporter, self._priors = context, cache, reporter, priors
        self._first_expert = experts_used(context.family, self._sampling())[0]
        self._clip, self._segment = clip, context.job.segments[0]
        self._mask = clip.mask(self._segment.start, self._segment.stop)
        self._source = Clip(clip.below.span(self._segment.start, self._segment.stop), context.job.source.fps)
        ((self._key, self._encoded),) = cache.encoded([condition]).items()
        self._shown = context.family.shown_cells(condition)

    def start(self) -> None:
        """Makes the preview before training, unless the run folder has it for the same condition."""
        extras, attention = self._context.extra_keys(), self._context.resources.attention
        key = self._cache.key("preview", self._key, self._sampling().model_dump(), extras, attention)
        name = f"start-{key}"
        if not self._path(name).exists():
            with self._reporter.phase("preview"):
                self._write(self._sampled(self._priors, None), name)

    def trained(self, expert: Expert, transformer: Any, done: int, total: int) -> None:
        """Makes a preview after a training step if one is due and the expert is the one that sampling starts with."""
        if self._due(done, total) and expert == self._first_expert:
            transformer.eval()
            self._write(self._sampled({}, Held(expert, transformer)), f"train-{done:06d}")
            transformer.train()

    def sampled(self, estimate: Tensor, done: int, total: int) -> None:
        """Makes a preview after a sampling step if one is due.

        Args:
            estimate: the final latents as this step predicts them, ``[c, f, h, w]``.
            done: sampling steps done.
            total: all sampling steps.
        """
        if self._due(done, total):
            self._write(estimate, f"sample-{done:04d}")

    def _due(self, done: int, total: int) -> bool:
        every = self._context.settings.preview_every
        return bool(every) and done % every == 0 and done < total

    def _sampling(self) -> SamplingSettings:
        """Returns the run's sampling settings with few steps and no second pass for guidance."""
        full = self._context.settings.sampling()
        guidance = full.guidance if self._context.job.card.embeds_guidance else 1.0
        return full.model_copy(
            update={"sampling_steps": min(STEPS, full.sampling_steps), "guidance": guidance, "step_cache": 0.0}
        )

    def _sampled(self, loras: dict[str, Path], held: Held | None) -> Tensor:
        """Samples latents in few steps, with LoRA files or with a transformer that is loaded already."""
        context = self._context
        with tempfile.TemporaryDirectory(prefix="loraedit-") as steps_folder:
            options = self._sampling(), loras, context.device, Path(steps_folder), no_step
            return sample(
                context.family, self._encoded, None, *options, context.job.extras, held=held, shown=self._shown
            )

    def _write(self, latents: Tensor, name: str) -> None:
        """Decodes latents, writes the page, and reports it."""
        context, source, path = self._context, self._source, self._path(name)
        generated = decode_segment(context, self._clip, latents, self._segment)
        frames = composite(source.frames, generated, feather(self._mask, context.job.feather_px))
        title = " ".join(["Preview:", *name.split("-")])
        page, content = contact_sheet(source, Clip(frames, source.fps), MaskTube(self._mask), title=title), BytesIO()
        page.save(content, format="png")
        write_bytes(path, content.getvalue())
        self.latest = path
        self._reporter.log(phase="preview", event="preview", file=str(path.relative_to(context.folder)))
        self._reporter.progress("preview", 1, 1, str(path))

    def _path(self, name: str) -> Path:
        return self._context.folder / "preview" / f"{name}.png"
