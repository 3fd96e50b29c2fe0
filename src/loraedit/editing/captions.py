"""Prompts from images: ``--prompt auto`` with the captioning model of ``--captioner``.

Florence-2 and the Qwen-VL models are supported through transformers' own classes. Weights are read from safetensors
files only, and no code of the checkpoint is run.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image as PilImage

from loraedit.errors import ModelError
from loraedit.job.check import AUTO
from loraedit.job.prepare import Job
from loraedit.storage.files import fingerprint, read_json, write_json
from loraedit.types import Image

__all__ = ["caption", "captioned"]

FLORENCE_TASK = "<DETAILED_CAPTION>"
QUESTION = (
    "Describe this frame of a film in one sentence: who or what is in it, what they look like, and where they are."
)
MAX_TOKENS = 96


def captioned(job: Job, folder: Path, device: torch.device) -> Job:
    """Returns the job with a caption in place of each ``auto`` prompt.

    The prompt is a caption of the edited first frame, the source prompt one of the source's. Captions are cached in
    ``folder``, so the same command again does not need the captioner.

    Raises:
        ModelError: the captioner cannot be loaded, or its model type is not supported.
    """
    settings, captions = job.settings, dict[str, str]()
    images = {"prompt": job.edited_first, "source_prompt": next(job.source.rgb(0, 1))}
    for name, image in images.items():
        if getattr(settings, name) == AUTO:
            assert settings.captioner is not None
            captions[name] = _cached_caption(image, settings.captioner, folder, device)
    return replace(job, settings=settings.model_copy(update=captions)) if captions else job


def _cached_caption(image: Image, captioner: str, folder: Path, device: torch.device) -> str:
    """Reads the caption of an image from the folder, or makes it and writes it there."""
    path = folder / f"caption-{fingerprint(captioner, image)}.json"
    if path.exists():
        return str(read_json(path)["caption"])
    text = caption(image, captioner, device)
    write_json(path, {"caption": text, "captioner": captioner})
    return text


def caption(image: Image, captioner: str, device: torch.device) -> str:
    """Returns a caption of an image.

    Args:
        image: uint8 ``[H, W, 3]``.
        captioner: a folder in transformers layout, or a Hub id.
        device: where to run the captioner.

    Raises:
        ModelError: the captioner cannot be loaded, or its model type is not supported.
    """
    from transformers import AutoConfig, AutoProcessor

    safe = {"trust_remote_code": False}
    try:
        kind = AutoConfig.from_pretrained(captioner, **safe).model_type
        model = _class_of(kind, captioner).from_pretrained(captioner, use_safetensors=True, **safe)
        processor = AutoProcessor.from_pretrained(captioner, **safe)  # type: ignore[no-untyped-call]
    except (OSError, ValueError, KeyError, ImportError) as error:
        reason = str(error).strip().splitlines()[0].rstrip(".") if str(error).strip() else type(error).__name__
        raise ModelError(f"The captioner '{captioner}' cannot be loaded: {reason}.") from error
    model = model.eval().to(device)
    with torch.inference_mode():
        describe = _describe_by_florence if kind == "florence2" else _describe_by_chat
        text = describe(model, processor, PilImage.fromarray(image), device)
    return " ".join(text.split())


def _class_of(kind: str, captioner: str) -> Any:
    from transformers import AutoModelForImageTextToText, Florence2ForConditionalGeneration

    if kind == "florence2":
        return Florence2ForConditionalGeneration
    if kind.startswith("qwen") and "_vl" in kind:
        return AutoModelForImageTextToText
    raise ModelError(f"'{captioner}' is a {kind} model. Use a Florence-2 or a Qwen-VL model with --captioner.")


def _describe_by_florence(model: Any, processor: Any, image: Any, device: torch.device) -> str:
    inputs = processor(text=FLORENCE_TASK, images=image, return_tensors="pt").to(device)
    tokens = model.generate(**inputs, max_new_tokens=MAX_TOKENS, num_beams=3, do_sample=False)
    text = processor.batch_decode(tokens, skip_special_tokens=True)[0]
    return str(text)


def _describe_by_chat(model: Any, processor: Any, image: Any, device: torch.device) -> str:
    content = [{"type": "image", "image": image}, {"type": "text", "text": QUESTION}]
    inputs = processor.apply_chat_template(
        [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=True, return_dict=True,
        return_tensors="pt",
    ).to(device)  # fmt: skip
    tokens = model.generate(**inputs, max_new_tokens=MAX_TOKENS, do_sample=False)
    return str(processor.batch_decode(tokens[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)[0])
