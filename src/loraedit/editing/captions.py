"""Prompts from pictures: ``--prompt auto`` with a captioning model that the user names.

Florence-2 and the Qwen-VL models, by transformers' own classes. The weights are safetensors, and no code of the
checkpoint is run.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image as Pictures

from loraedit.errors import ModelError
from loraedit.job.prepare import Job
from loraedit.storage.files import fingerprint, read_json, write_json
from loraedit.types import Image

__all__ = ["AUTO", "caption", "captioned"]

AUTO = "auto"
FLORENCE_TASK = "<DETAILED_CAPTION>"
QUESTION = (
    "Describe this frame of a film in one sentence: who or what is in it, what they look like, and where they are."
)
MAX_TOKENS = 96


def captioned(job: Job, folder: Path, device: torch.device) -> Job:
    """The job with captions in place of prompts that are ``auto``: of the edited first frame, and of the source's.

    Captions are kept in ``folder``, so that the same command again finds them.

    Raises:
        ModelError: the captioner cannot be loaded, or is of another kind.
    """
    settings, found = job.settings, {}
    pictures = {"prompt": job.edited_first, "source_prompt": next(job.source.rgb(0, 1))}
    for name, picture in pictures.items():
        if getattr(settings, name) == AUTO:
            assert settings.captioner is not None
            path = folder / f"caption-{fingerprint(settings.captioner, picture)}.json"
            if path.exists():
                found[name] = str(read_json(path)["caption"])
            else:
                found[name] = caption(picture, settings.captioner, device)
                write_json(path, {"caption": found[name], "captioner": settings.captioner})
    return replace(job, settings=settings.model_copy(update=found)) if found else job


def caption(picture: Image, captioner: str, device: torch.device) -> str:
    """What a picture shows, in words.

    Args:
        picture: uint8 ``[H, W, 3]``.
        captioner: a folder as transformers saves it, or a Hub id.

    Raises:
        ModelError: it cannot be loaded, or is of another kind.
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
        speak = _florence if kind == "florence2" else _chat
        text = speak(model, processor, Pictures.fromarray(picture), device)
    return " ".join(text.split())


def _class_of(kind: str, captioner: str) -> Any:
    from transformers import AutoModelForImageTextToText, Florence2ForConditionalGeneration

    if kind == "florence2":
        return Florence2ForConditionalGeneration
    if kind.startswith("qwen") and "_vl" in kind:
        return AutoModelForImageTextToText
    raise ModelError(f"'{captioner}' is a {kind} model. Give --captioner a Florence-2 or a Qwen-VL model.")


def _florence(model: Any, processor: Any, picture: Any, device: torch.device) -> str:
    inputs = processor(text=FLORENCE_TASK, images=picture, return_tensors="pt").to(device)
    words = model.generate(**inputs, max_new_tokens=MAX_TOKENS, num_beams=3, do_sample=False)
    text = processor.batch_decode(words, skip_special_tokens=True)[0]
    return str(text)


def _chat(model: Any, processor: Any, picture: Any, device: torch.device) -> str:
    content = [{"type": "image", "image": picture}, {"type": "text", "text": QUESTION}]
    inputs = processor.apply_chat_template(
        [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=True, return_dict=True,
        return_tensors="pt",
    ).to(device)  # fmt: skip
    words = model.generate(**inputs, max_new_tokens=MAX_TOKENS, do_sample=False)
    return str(processor.batch_decode(words[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)[0])
