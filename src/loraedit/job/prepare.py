"""From a request to a job: check, then read, then make the mask, then cut the clip into windows and segments."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from loraedit.errors import InputError
from loraedit.families.card import ModelCard
from loraedit.job.captioner import download_captioner
from loraedit.job.check import CheckedRequest, check_loras, check_request
from loraedit.job.edit_mask import edit_mask_of, loose_mask_of, shaped
from loraedit.job.frame_rate import frame_rate_for, frame_rate_notes
from loraedit.job.inputs import Inputs, read_inputs
from loraedit.job.model import download_weights, local_weights
from loraedit.job.request import EditRequest
from loraedit.job.segments import Segment, cut_in_time
from loraedit.job.targets import EditTarget, Texts, edit_targets
from loraedit.job.window import Window, choose_window
from loraedit.lora.extra import ExtraLora
from loraedit.masks.shaping import default_feather_px
from loraedit.masks.tube import MaskTube
from loraedit.runs.kept import KeptObject
from loraedit.settings import RecipeName, ResolvedSettings
from loraedit.storage.paths import unusable_paths_refused
from loraedit.types import Footage, Image, Progress, no_progress

__all__ = ["Job", "prepare", "prepare_recipes"]


@dataclass(frozen=True)
class Job:
    """One edit, everything read and checked. Everything downstream takes this value.

    Attributes:
        source: the clip, read on demand.
        edited_first: the user's edit of its first frame, uint8 ``[H, W, 3]``.
        edit_mask: one plane for each frame, True = edit.
        references: edited frames of everything after the first by frame index, from 0.
        objects: the objects, if any were given, with edited frames of their own.
        settings: the settings, resolved.
        card: the model.
        targets: what is edited in one go, in the order in which the targets are laid over each other.
        segments: stretches of the clip that the model generates at once.
        extras: the user's extra LoRAs, in their order.
        notes: what the user should know before the work begins, a sentence each.
        out: where the user wants the result, or None.
        run: the run folder, or None for a temporary one.
    """

    source: Footage
    edited_first: Image
    edit_mask: MaskTube
    references: dict[int, Image]
    objects: tuple[KeptObject, ...]
    settings: ResolvedSettings
    card: ModelCard
    targets: tuple[EditTarget, ...]
    segments: Sequence[Segment]
    extras: tuple[ExtraLora, ...]
    notes: tuple[str, ...]
    out: Path | None
    run: Path | None

    @property
    def feather_px(self) -> int:
        """Width of the soft border inside the mask, in pixels."""
        asked = self.settings.feather_px
        return default_feather_px(self.source.size) if asked is None else asked

    @property
    def frame_rate(self) -> float | None:
        """Frames per second for a model that reads them; None for any other."""
        return frame_rate_for(self.card, self.source)


@unusable_paths_refused()
def prepare(request: EditRequest, progress: Progress = no_progress, card: ModelCard | None = None) -> Job:
    """Checks a request, reads its inputs, and makes a job of it.

    Args:
        progress: called with the phases "read", "mask" and "download".
        card: the model's, if it is known already; its weights need not be there.

    Raises:
        InputError: something cannot be read, or does not fit.
        ModelError: the checkpoint is not one that loraedit can edit with.
    """
    checked = check_request(request, card)
    whole = card or local_weights(request.settings, checked.card)
    if whole is not None:
        checked = check_loras(checked, whole)
    inputs = read_inputs(checked, progress)
    edit_mask = edit_mask_of(checked, inputs, progress)
    if whole is None:  # a download is large, so it waits until nothing else can be refused
        checked = check_loras(checked, download_weights(request.settings, checked.card, progress))
    download_captioner(checked.settings, progress)
    return _job(checked, inputs, edit_mask)


@unusable_paths_refused()
def prepare_recipes(
    request: EditRequest, recipes: Sequence[RecipeName], card: ModelCard, progress: Progress = no_progress
) -> dict[RecipeName, Job | InputError]:
    """Prepares a request once for each recipe. The clip is read once and the mask is tracked once.

    Args:
        request: it has no objects, whose masks are shaped by a recipe while they are read.
        recipes: the first one is the one that the user wants.
        card: the model's; its weights need not be there.

    Returns:
        A job for each recipe, or why it is refused.

    Raises:
        InputError: the request is refused under the first recipe.
        ModelError: the checkpoint is not one that loraedit can edit with.
    """
    assert not request.objects
    checked = {name: _checked(request, name, card) for name in recipes}
    wanted = checked[recipes[0]]
    if isinstance(wanted, InputError):
        raise wanted
    inputs = read_inputs(wanted, progress)
    loose = loose_mask_of(wanted, inputs, progress)
    jobs = {name: each if isinstance(each, InputError) else _shaped_job(each, inputs, loose)
            for name, each in checked.items()}  # fmt: skip
    first = jobs[recipes[0]]
    if isinstance(first, InputError):
        raise first
    return jobs


def _checked(request: EditRequest, recipe: RecipeName, card: ModelCard) -> CheckedRequest | InputError:
    settings = request.settings.model_copy(update={"recipe": recipe})
    try:
        return check_loras(check_request(replace(request, settings=settings), card), card)
    except InputError as error:
        return error


def _shaped_job(checked: CheckedRequest, inputs: Inputs, loose: MaskTube) -> Job | InputError:
    try:
        return _job(checked, inputs, shaped(loose, checked, inputs))
    except InputError as error:
        return error


def _job(checked: CheckedRequest, inputs: Inputs, edit_mask: MaskTube) -> Job:
    """Chooses windows and segments."""
    settings, card, source = checked.settings, checked.card, inputs.source
    window = partial(_window, settings, card)
    texts = Texts(settings.source_text, settings.text)
    targets = edit_targets(inputs.keyframes, inputs.objects, edit_mask, source, window, texts)
    segments = cut_in_time(len(source), [each.window.size for each in targets], settings, card)
    return Job(
        source=source,
        edited_first=inputs.edited_first,
        edit_mask=edit_mask,
        references=inputs.references,
        objects=inputs.objects,
        settings=settings,
        card=card,
        targets=targets,
        segments=segments,
        extras=checked.extras,
        notes=(*_footage_notes(source), *frame_rate_notes(card, source), *checked.notes),
        out=checked.request.out,
        run=checked.run,
    )


def _window(settings: ResolvedSettings, card: ModelCard, mask: MaskTube) -> Window:
    """Returns the window for a mask, a little larger if the model can then work at its very pixels."""
    window = choose_window(mask, settings.crop, settings.context)
    grown = window.grown(mask.size, card.multiple_px)
    return grown if card.keeps_pixels(grown.size, settings) else window


def _footage_notes(clip: Footage) -> list[str]:
    if clip.origin is None or clip.origin.fields == 1:
        return []
    return [
        f"{clip.origin.path.name} is interlaced: a frame holds two moments, but the model generates whole frames. The "
        "result is marked as interlaced too. For a clean edit, deinterlace the clip first (ffmpeg -vf bwdif)."
    ]
