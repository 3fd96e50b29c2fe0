"""Checks a request before a frame is decoded: its texts, files and places, and its settings against the model's card.

Only the check of an attention backend needs torch, so any other mistake is refused before anything heavy loads.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path

from loraedit.errors import InputError
from loraedit.families.card import NANO, ModelCard
from loraedit.job.captioner import AUTO, check_captioner
from loraedit.job.card_checks import check_against_card
from loraedit.job.device_checks import check_kind_of_device
from loraedit.job.edits import check_objects, joint_prompt
from loraedit.job.model import find_card
from loraedit.job.places import check_places
from loraedit.job.request import EditRequest
from loraedit.lora.extra import ExtraLora, check_extras, parse_extra, settle_distilled
from loraedit.lora.opening import check_header
from loraedit.masks.reading import check_mask_file
from loraedit.optical_flow.estimators import check_estimator
from loraedit.settings import EditSettings, ResolvedSettings, parse_memory
from loraedit.tracking import open_tracker
from loraedit.video import check_footage, check_image

__all__ = ["CheckedRequest", "check_loras", "check_request"]


FORWARD_ONLY = re.compile("_?sage|_flash_3$")
"""Attention backends of diffusers that compute no gradients: all of SageAttention, and its call of FlashAttention 3."""


@dataclass(frozen=True)
class CheckedRequest:
    """A request that the model can carry out, as far as can be known without decoding the clip.

    Attributes:
        request: what the user gave.
        settings: its settings, resolved against the model's recipe.
        card: the model.
        extras: the extra LoRAs, in their order.
        notes: what the user should know before the work begins, a sentence each.
        run: the run folder, or None for a temporary one.
    """

    request: EditRequest
    settings: ResolvedSettings
    card: ModelCard
    extras: tuple[ExtraLora, ...]
    notes: tuple[str, ...]
    run: Path | None


def check_request(request: EditRequest, card: ModelCard | None = None) -> CheckedRequest:
    """Checks everything that needs neither the clip's frames nor the model's weights.

    Args:
        card: the model's, if it is known already.

    Raises:
        InputError: something given cannot be used, or contradicts something else.
        ModelError: there is no such model, or loraedit cannot edit with it.
    """
    asked = request.settings
    _check_device(asked.device)
    parse_memory(asked.vram)  # refuses what is no size
    check_kind_of_device(asked.weights, (asked.device or "").partition(":")[0])
    _check_backward(asked.training_attention)
    check_objects(request.objects, request.given_mask, request.references)
    _check_references(request)
    _check_tracking(request)
    check_estimator(asked.flow_estimator)
    extras = tuple(parse_extra(text) for text in asked.extra_lora)
    _check_files(request)
    for extra in extras:
        check_header(extra.path)
    run = check_places(request, [extra.path for extra in extras])
    card = card or find_card(asked)
    settled, notes = settle_distilled(asked, extras, card)
    settings = settled.model_copy(update=_prompts(request)).resolved(card.recipe)
    check_against_card(settings, card)
    check_captioner(settings)
    _check_attention(asked)
    notes += [*_text_notes(settings), *_recipe_notes(settings, card), *_guidance_notes(asked, settings, card)]
    return CheckedRequest(request, settings, card, extras, tuple(notes), run)


def check_loras(checked: CheckedRequest, card: ModelCard) -> CheckedRequest:
    """Checks the headers of the extra LoRAs against those of the model's weights.

    Args:
        card: the model's, its weights checked; it becomes the request's.

    Raises:
        InputError: one is for an expert that the model does not have.
        ModelError: one is of another model.
    """
    fitting = check_extras(checked.extras, card)
    return replace(checked, card=card, notes=(*fitting, *checked.notes))


def _check_files(request: EditRequest) -> None:
    """Checks that every file given is there and of the right kind; headers alone are read."""
    if isinstance(request.source, str | Path):
        check_footage(Path(request.source))
    for image in request.images():
        if isinstance(image, str | Path):
            check_image(Path(image))
    for mask in request.masks():
        check_mask_file(mask)


def _check_references(request: EditRequest) -> None:
    indices = request.reference_indices()
    for index in indices:
        if not isinstance(index, int) or index <= 0:
            raise InputError(
                f"There is no frame {index} to take a reference for. Frames are counted from 0, and frame 0 is the "
                "edited first frame."
            )
    if indices and request.settings.lora != "motion":
        raise InputError(
            f"References need the motion LoRA, but --lora is {request.settings.lora}. Leave one of them out."
        )


def _check_tracking(request: EditRequest) -> None:
    asked = request.settings
    if request.tracks:
        open_tracker(asked.tracker, Path(asked.tracker_model) if asked.tracker_model else None, None, asked.device)
    elif asked.margin is not None or asked.tracker != "embedded" or asked.tracker_model:
        raise InputError("--margin and --tracker need an automatic mask. Leave them out, or give --mask auto.")


def _prompts(request: EditRequest) -> dict[str, str]:
    """Returns prompt and source prompt. With a captioner, what the user left open becomes "auto".

    The bare model learns nothing from the source, so it needs no caption of it.
    """
    asked = request.settings
    left_open = "" if asked.captioner is None else AUTO
    prompt = joint_prompt(asked.prompt, [each.prompt for each in request.objects])
    source_prompt = asked.source_prompt or left_open
    if asked.lora == "none" and source_prompt == AUTO:
        source_prompt = ""
    return {"prompt": prompt or left_open, "source_prompt": source_prompt}


def _text_notes(settings: ResolvedSettings) -> list[str]:
    """Says which text the model gets where the user gave none."""
    if not settings.prompt:
        got = f"only the trigger word '{settings.trigger}'" if settings.trigger else "no text at all"
        what = "edited clip" if settings.source_prompt else "clip"
        return [f"There is no --prompt, so {got} describes the {what}. Add a sentence, or --captioner florence-2."]
    if not settings.source_prompt and settings.lora != "none":
        return ["There is no --source-prompt, so --prompt describes the source too."]
    return []


def _guidance_notes(asked: EditSettings, settings: ResolvedSettings, card: ModelCard) -> list[str]:
    """Says so if a negative prompt has no effect."""
    if not asked.negative_prompt or card.guided(settings.guidance):
        return []
    if card.embeds_guidance:
        return ["--negative-prompt has no effect: this model reads the guidance scale itself and takes one prompt."]
    return [f"--negative-prompt has no effect at --guidance {settings.guidance:g}. Give a guidance above 1 to use it."]


def _recipe_notes(settings: ResolvedSettings, card: ModelCard) -> list[str]:
    if not settings.carries or card.folder == NANO:
        return []
    return [
        "Keyframes carried by optical flow (--recipe propagate, --fill carry) were measured on nano only. They suit "
        "new colours, textures and logos; for new shapes, use --recipe paper."
    ]


def _check_backward(training: str | None) -> None:
    if training is not None and FORWARD_ONLY.match(training):
        raise InputError(
            f"The attention backend '{training}' has no backward pass, so it cannot train. Use it for sampling "
            "(--attention), and leave --training-attention out or give another, such as flash."
        )


def _check_attention(asked: EditSettings) -> None:
    """Checks that the chosen backends can be used here. This loads diffusers, so it comes after all other checks."""
    chosen = [each for each in (asked.attention, asked.training_attention) if each is not None]
    if chosen:
        from loraedit.runtime.attention import check_attention

        for backend in chosen:
            check_attention(backend)


def _check_device(device: str | None) -> None:
    if device is not None and not re.fullmatch(r"(cpu|cuda|mps|xpu)(:\d+)?", device):
        raise InputError(f"Device '{device}' is not known. Expected cpu, cuda, cuda:1, mps or xpu.")
