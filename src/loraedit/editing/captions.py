"""Texts from images: the captioning model of ``--captioner`` describes the frames that the user does not.

The source is described by its first frame, the edit by the edited first frame, and each reference by itself, as in the
published method. With windows, captions describe what the model sees of each object. Weights are read from safetensors
files only, and no code of a checkpoint is run.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image as PilImage
from safetensors import SafetensorError

from loraedit.errors import ModelError
from loraedit.families.loading import free
from loraedit.job.captioner import AUTO, FLORENCE, captioner_type, find_captioner
from loraedit.job.prepare import Job
from loraedit.job.targets import EditTarget, Texts
from loraedit.storage.checkpoints import checkpoint_files
from loraedit.storage.files import fingerprint, read_json, write_json
from loraedit.types import Image, OnStep, no_step

__all__ = ["Captioner", "captioned", "without_preamble"]

CAPTION_FORMAT = 3
"""A part of every key. Raise it when captions change, so that old ones are not taken for new ones."""

FLORENCE_TASK = "<DETAILED_CAPTION>"
FLORENCE_BEAMS = 3
QUESTION = (
    "Describe this frame of a film in one sentence: who or what is in it, what they look like, and where they are."
)
MAX_TOKENS = 256
"""Detailed captions have about 40 to 100 tokens, so none is cut off."""

PREAMBLE = re.compile(r"(The|This) image shows |In this image,? we can see ")
"""How captions of Florence-2 begin; the published code removes "The image shows "."""

SHOWN_CHARACTERS = 100


def captioned(job: Job, folder: Path, device: torch.device, on_step: OnStep = no_step) -> tuple[Job, str]:
    """Returns the job with captions as texts, and a sentence about them.

    A caption takes the place of each prompt that is ``auto``. If the prompt is, each reference gets one too. Each
    target has captions of its own window; the settings of the job join those of all targets. Captions are kept in
    ``folder``, so the same command again does not load the captioner.

    Args:
        job: at least one of its prompts is ``auto``.
        on_step: called with (pictures described, pictures in all).

    Raises:
        ModelError: the captioner cannot be loaded, or finds no words.
    """
    settings = job.settings
    assert settings.captioner is not None
    pictures = [(_first_frames(job, target), _references(job, target)) for target in job.targets]
    images = {fingerprint(image): image for each in pictures for part in each for image in part.values()}
    captions = _captions(images, settings.captioner, folder, device, on_step)

    prompts: list[dict[str, str]] = []
    targets = []
    for target, (firsts, references) in zip(job.targets, pictures, strict=True):
        prompts.append({name: captions[fingerprint(image)] for name, image in firsts.items()})
        own = settings.model_copy(update=prompts[-1])
        texts = {index: own.with_trigger(captions[fingerprint(image)]) for index, image in references.items()}
        targets.append(replace(target, texts=Texts(own.source_text, own.text, texts)))
    joined = {name: ", ".join(dict.fromkeys(each[name] for each in prompts)) for name in prompts[0]}
    told = replace(job, settings=settings.model_copy(update=joined), targets=tuple(targets))
    return told, _note(settings.captioner, prompts[0], len(images) - len(prompts[0]))


def _first_frames(job: Job, target: EditTarget) -> dict[str, Image]:
    """Returns what the model sees of a target in the first frame, for each prompt that is ``auto``."""
    window, frames = target.window.at(0), {}
    if job.settings.source_prompt == AUTO:
        frames["source_prompt"] = next(job.source.rgb(0, 1))[window]
    if job.settings.prompt == AUTO:
        frames["prompt"] = job.edited_first[window]
    return frames


def _references(job: Job, target: EditTarget) -> dict[int, Image]:
    """Returns what the model sees of a target's references by frame index, if the prompt is ``auto``."""
    indices = target.references if job.settings.prompt == AUTO else []
    return {index: target.keyframes[index][target.window.at(index)] for index in indices}


def _note(captioner: str, prompts: Mapping[str, str], more: int) -> str:
    names = {"source_prompt": "source", "prompt": "edit"}
    shown = [f"{names[name]}: '{textwrap.shorten(text, SHOWN_CHARACTERS)}'" for name, text in prompts.items()]
    shown += [f"{more} picture{'s' if more > 1 else ''} more"] if more > 0 else []
    return f"Described by {Path(captioner).name}: {', '.join(shown)}. The whole texts are in settings.json."


def _captions(
    images: Mapping[str, Image], captioner: str, folder: Path, device: torch.device, on_step: OnStep
) -> dict[str, str]:
    """Reads the captions of images by their fingerprints from the folder; makes those that are missing."""
    model = fingerprint(*checkpoint_files(find_captioner(captioner)))
    dtype = str(_dtype(device))
    files = {key: folder / f"caption-{fingerprint(CAPTION_FORMAT, model, dtype, key)}.json" for key in images}
    captions = {key: str(read_json(file)["caption"]) for key, file in files.items() if file.exists()}
    missing = [key for key in images if key not in captions]
    if missing:
        on_step(0, len(missing))
        describer = Captioner.open(captioner, device)
        for done, key in enumerate(missing, 1):
            captions[key] = describer.describe(images[key])
            write_json(files[key], {"caption": captions[key], "captioner": captioner})
            on_step(done, len(missing))
        del describer
        free()
    return captions


def _dtype(device: torch.device) -> Any:
    """Returns the precision of a captioner on a device; ``auto`` is that of its files."""
    return torch.float32 if device.type == "cpu" else "auto"


@dataclass(frozen=True)
class Captioner:
    """A captioning model in memory.

    Attributes:
        name: as the user gave it, for messages.
        kind: its model type.
        model: of transformers' own class.
        processor: its processor.
    """

    name: str
    kind: str
    model: Any
    processor: Any

    @staticmethod
    def open(captioner: str, device: torch.device) -> Captioner:
        """Loads a captioner that is on this machine.

        Args:
            captioner: a name, a folder in transformers layout, or a Hub id.
            device: where to run it; on a CPU it runs in float32.

        Raises:
            ModelError: it cannot be loaded, or its model type is not supported.
        """
        from transformers import AutoModelForImageTextToText, AutoProcessor

        folder = find_captioner(captioner)
        kind = captioner_type(folder)
        safe = {"trust_remote_code": False, "local_files_only": True}
        try:
            model: Any = AutoModelForImageTextToText.from_pretrained(
                folder, use_safetensors=True, dtype=_dtype(device), **safe
            )
            processor = AutoProcessor.from_pretrained(folder, **safe)  # type: ignore[no-untyped-call]
        except (OSError, ValueError, KeyError, ImportError, RuntimeError, SafetensorError) as error:
            reason = str(error).strip().splitlines()[0].rstrip(".") if str(error).strip() else type(error).__name__
            raise ModelError(f"The captioner '{captioner}' cannot be loaded: {reason}.") from error
        return Captioner(captioner, kind, model.to(device), processor)

    @torch.inference_mode()
    def describe(self, image: Image) -> str:
        """Returns a caption of an image, on one line.

        Args:
            image: uint8 ``[H, W, 3]``.

        Raises:
            ModelError: the caption is empty.
        """
        picture = PilImage.fromarray(image)
        text = self._describe_by_task(picture) if self.kind == FLORENCE else self._describe_by_chat(picture)
        caption = without_preamble(" ".join(text.split()))
        if not caption:
            raise ModelError(
                f"The captioner '{self.name}' finds no words for a frame. Give --prompt and --source-prompt, or "
                "another captioner."
            )
        return caption

    def _describe_by_task(self, image: Any) -> str:
        """Describes an image by Florence-2, with the task, the beams and the steps after it of the published code."""
        inputs = self.processor(text=FLORENCE_TASK, images=image, return_tensors="pt")
        inputs = inputs.to(self.model.device, self.model.dtype)
        tokens = self.model.generate(**inputs, max_new_tokens=MAX_TOKENS, num_beams=FLORENCE_BEAMS, do_sample=False)
        text = self.processor.batch_decode(tokens, skip_special_tokens=False)[0]
        parsed = self.processor.post_process_generation(text, task=FLORENCE_TASK, image_size=image.size)
        return str(parsed[FLORENCE_TASK])

    def _describe_by_chat(self, image: Any) -> str:
        content = [{"type": "image", "image": image}, {"type": "text", "text": QUESTION}]
        inputs = self.processor.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=True, return_dict=True,
            return_tensors="pt",
        ).to(self.model.device, self.model.dtype)  # fmt: skip
        tokens = self.model.generate(**inputs, max_new_tokens=MAX_TOKENS, do_sample=False)
        return str(self.processor.batch_decode(tokens[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)[0])


def without_preamble(caption: str) -> str:
    """Removes the words with which a caption says that it describes an image."""
    begin = PREAMBLE.match(caption)
    return caption[begin.end() :] if begin else caption
