"""Texts from images: the captioning model of ``--captioner`` describes the frames that the user does not.

The source is described by its first frame, the edit by the edited first frame, and each reference by itself, as in the
published method. Weights are read from safetensors files only, and no code of a checkpoint is run.
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
from loraedit.job.targets import EditTarget
from loraedit.storage.files import fingerprint, read_json, write_json
from loraedit.types import Image, OnStep, no_step

__all__ = ["Captioner", "captioned", "without_preamble"]

CAPTION_FORMAT = 2
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

    A caption takes the place of each prompt that is ``auto``. If the prompt is, each reference gets one too. Captions
    are kept in ``folder``, so the same command again does not load the captioner.

    Args:
        job: at least one of its prompts is ``auto``.
        on_step: called with (frames described, frames in all).

    Raises:
        ModelError: the captioner cannot be loaded, or finds no words.
    """
    settings, firsts = job.settings, _first_frames(job)
    references = [_references(target) if settings.prompt == AUTO else {} for target in job.targets]
    shown = [*firsts.values(), *(image for each in references for image in each.values())]
    assert settings.captioner is not None
    images = {fingerprint(image): image for image in shown}
    captions = _captions(images, settings.captioner, folder, device, on_step)

    prompts = {name: captions[fingerprint(image)] for name, image in firsts.items()}
    texts = [
        {index: settings.with_trigger(captions[fingerprint(image)]) for index, image in each.items()}
        for each in references
    ]
    targets = tuple(replace(target, texts=each) for target, each in zip(job.targets, texts, strict=True))
    told = replace(job, settings=settings.model_copy(update=prompts), targets=targets)
    return told, _note(settings.captioner, prompts, len({index for each in texts for index in each}))


def _first_frames(job: Job) -> dict[str, Image]:
    """Returns the frame to describe for each prompt that is ``auto``."""
    frames = {}
    if job.settings.source_prompt == AUTO:
        frames["source_prompt"] = next(job.source.rgb(0, 1))
    if job.settings.prompt == AUTO:
        frames["prompt"] = job.edited_first
    return frames


def _references(target: EditTarget) -> dict[int, Image]:
    return {index: target.keyframes[index] for index in target.references}


def _note(captioner: str, prompts: Mapping[str, str], references: int) -> str:
    names = {"source_prompt": "source", "prompt": "edit"}
    shown = [f"{names[name]}: '{textwrap.shorten(text, SHOWN_CHARACTERS)}'" for name, text in prompts.items()]
    shown += [f"{references} edited frame{'s' if references > 1 else ''} more"] if references else []
    return f"Described by {Path(captioner).name}: {', '.join(shown)}. The whole texts are in settings.json."


def _captions(
    images: Mapping[str, Image], captioner: str, folder: Path, device: torch.device, on_step: OnStep
) -> dict[str, str]:
    """Reads the captions of images by their fingerprints from the folder; makes those that are missing."""
    files = {key: folder / f"caption-{fingerprint(CAPTION_FORMAT, captioner, key)}.json" for key in images}
    captions = {key: str(read_json(file)["caption"]) for key, file in files.items() if file.exists()}
    missing = [key for key in images if key not in captions]
    if missing:
        on_step(0, len(missing))
        model = Captioner.open(captioner, device)
        for done, key in enumerate(missing, 1):
            captions[key] = model.describe(images[key])
            write_json(files[key], {"caption": captions[key], "captioner": captioner})
            on_step(done, len(missing))
        del model
        free()
    return captions


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
        dtype: Any = torch.float32 if device.type == "cpu" else "auto"
        safe = {"trust_remote_code": False, "local_files_only": True}
        try:
            model: Any = AutoModelForImageTextToText.from_pretrained(folder, use_safetensors=True, dtype=dtype, **safe)
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
