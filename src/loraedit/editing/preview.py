"""Previews: what the first segment will look like, before the full run and while it goes on; never the result's bytes.

Of several targets they show the first. ``RUN/preview/`` holds one page of source, mask and preview for each:
``start-KEY.png`` before training, made with the prior alone in a few steps; with ``preview_every``,
``train-NNNNNN.png`` after so many training steps and ``sample-NNNN.png``, where the clip stands after so many sampling
steps. Each is told as progress, its path as the note, and logged.
"""

from __future__ import annotations

import tempfile
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from loraedit.diffusion.samples import Sample
from loraedit.editing.run import Run
from loraedit.editing.target_clip import TargetClip
from loraedit.families.base import Expert
from loraedit.masks.compositing import composite
from loraedit.masks.shaping import feather
from loraedit.masks.tube import MaskTube
from loraedit.runs.pictures import contact_sheet
from loraedit.runtime.ranks import processes
from loraedit.sampling.sampler import Held, experts_asked, sample
from loraedit.settings import SamplingSettings
from loraedit.storage.files import write_bytes
from loraedit.types import Clip, no_step
from loraedit.video.scaling import from_working

__all__ = ["Previews"]

STEPS = 3
"""Denoising steps of a preview."""

LITTLE = 0.1
"""The largest share of a run's passes through the model that the preview at its start may take."""


class Previews:
    """The first segment of a run, ready to be looked at.

    Args:
        condition: what it is generated from.
        loras: LoRA file by expert to preview with before there is a trained one.
    """

    def __init__(self, run: Run, clip: TargetClip, condition: Sample, loras: dict[str, Path]) -> None:
        self.run, self.loras = run, loras
        self._first = experts_asked(run.family, self._sampling())[0]
        segment = run.job.segments[0]
        self.mask = clip.mask(segment.start, segment.stop)
        self.source = Clip(clip.below.span(segment.start, segment.stop), run.job.source.fps)
        ((self.key, self.encoded),) = run.encoded([condition]).items()

    @staticmethod
    def wanted(run: Run) -> bool:
        """Whether the run is to have any; there are none where several processes hold a model together."""
        return processes() == 1 and (bool(run.settings.preview_every) or Previews.cheap(run))

    @staticmethod
    def cheap(run: Run) -> bool:
        """Whether a preview at the start is wanted, and costs little beside the run."""
        settings, targets = run.settings, run.job.targets
        steps = sum(settings.steps + settings.reference_steps * bool(each.references) for each in targets)
        learning = 3 * steps * settings.batch_size if settings.lora != "none" else 0  # backwards costs two passes
        sampling = settings.sampling_steps * len(run.job.segments) * len(targets)
        return settings.preview and LITTLE * (learning + sampling) >= STEPS

    def start(self) -> None:
        """A first look, before anything is learnt; made once for the same condition."""
        extras = self.run.extra_keys()
        key = self.run.key("preview", self.key, self._sampling().model_dump(), *([extras] if extras else []))
        name = f"start-{key}"
        if not self._path(name).exists():
            with self.run.phase("preview"):
                self._write(self._sampled(self.loras, None), name)

    def trained(self, expert: Expert, transformer: Any, done: int, total: int) -> None:
        """A look in training, if one is due after so many steps; of the expert that a look starts with."""
        if self._due(done, total) and expert == self._first:
            transformer.eval()
            self._write(self._sampled({}, Held(expert, transformer)), f"train-{done:06d}")
            transformer.train()

    def sampled(self, latents: Tensor, done: int, total: int) -> None:
        """A look in sampling, if one is due after so many steps.

        Args:
            latents: what they will become, as the last step has it, ``[c, f, h, w]``.
        """
        if self._due(done, total):
            self._write(latents, f"sample-{done:04d}")

    def _due(self, done: int, total: int) -> bool:
        every = self.run.settings.preview_every
        return bool(every) and done % every == 0 and done < total

    def _sampling(self) -> SamplingSettings:
        """As the run samples, in few steps and without a second pass for guidance."""
        full = self.run.settings.sampling()
        guidance = full.guidance if self.run.job.card.embeds_guidance else 1.0
        return full.model_copy(
            update={"sampling_steps": min(STEPS, full.sampling_steps), "guidance": guidance, "step_cache": 0.0}
        )

    def _sampled(self, loras: dict[str, Path], held: Held | None) -> Tensor:
        run = self.run
        with tempfile.TemporaryDirectory(prefix="loraedit-") as passing:
            about = self._sampling(), loras, run.device, Path(passing), no_step
            return sample(run.family, self.encoded, None, *about, run.job.extras, held=held)

    def _write(self, latents: Tensor, name: str) -> None:
        run, path = self.run, self._path(name)
        with torch.inference_mode():
            pixels = run.family.decode(latents, run.device)[: len(self.source)]
        alpha = feather(self.mask, run.settings.feather_px)
        frames = composite(self.source.frames, from_working(pixels, self.source.size), alpha)
        made, title = Clip(frames, self.source.fps), " ".join(["Preview:", *name.split("-")])
        page = contact_sheet(self.source, made, MaskTube(self.mask), title=title)
        content = BytesIO()
        page.save(content, format="png")
        write_bytes(path, content.getvalue())
        run.result.paths["preview"] = path
        run.log(phase="preview", event="preview", file=str(path.relative_to(run.folder)))
        run.progress("preview", 1, 1, str(path))

    def _path(self, name: str) -> Path:
        return self.run.folder / "preview" / f"{name}.png"
