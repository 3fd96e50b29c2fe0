"""The context of an edit: everything that is fixed before its first stage."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from loraedit.families import open_family
from loraedit.families.base import Expert, Family
from loraedit.job.prepare import Job
from loraedit.runs.finished import input_hashes
from loraedit.runs.folder import RUN_FORMAT
from loraedit.settings import ResolvedSettings, Resources
from loraedit.storage.files import fingerprint
from loraedit.storage.lora_store import Store
from loraedit.version import versions

__all__ = ["EditContext", "open_context"]


@dataclass(frozen=True)
class EditContext:
    """The values that all stages of an edit read, and none changes.

    Attributes:
        job: the checked request, with captions in place of ``auto`` prompts.
        folder: the run folder.
        device: the device of the models.
        resources: how the models fit into the device's memory.
        family: the opened model.
        store: the LoRAs that all runs share.
        model_key: fingerprint of the model's files.
    """

    job: Job
    folder: Path
    device: torch.device
    resources: Resources
    family: Family
    store: Store
    model_key: str

    @property
    def settings(self) -> ResolvedSettings:
        """The resolved settings of the job."""
        return self.job.settings

    def extra_keys(self) -> list[list[str | float | None]]:
        """Returns what identifies the extra LoRAs, in their order."""
        return [extra.key for extra in self.job.extras]

    def prior_file(self, expert: Expert) -> Path | None:
        """Returns the prior LoRA of the checkpoint, if the settings ask for it and the checkpoint has one."""
        file = self.job.card.prior(expert.name)
        return file if self.settings.prior and self.settings.lora == "motion" and file.exists() else None

    def provenance(self) -> dict[str, Any]:
        """Returns everything that decides the result, as JSON values; equal for equal runs."""
        job = self.job
        return {
            "format": RUN_FORMAT,
            "settings": self.settings.model_dump(exclude={"store"}),  # the store does not change the result
            "texts": self._texts(),
            "inputs": {
                **input_hashes(job.source.fingerprint, job.source.fps, job.edited_first, job.edit_mask),
                "references": {str(index): fingerprint(image) for index, image in job.references.items()},
                "reference_order": list(job.references),
                "objects": {each.name: each.provenance(number) for number, each in enumerate(job.objects)},
                "extra_loras": self.extra_keys(),
                "model": self.model_key,
            },
            "versions": versions(),
            "device": str(self.device),
            "resources": self.resources.model_dump(),
        }

    def _texts(self) -> list[dict[str, Any]]:
        """Returns the texts that the model gets with each target: of the source, of the edit, and of its references."""
        return [
            {
                "source": target.texts.source,
                "edited": target.texts.edited,
                "references": {str(index): target.texts.reference(index) for index in target.references},
            }
            for target in self.job.targets
        ]


def open_context(job: Job, folder: Path, device: torch.device, resources: Resources, store: Store) -> EditContext:
    """Opens the model of a job and returns the context of its edit.

    Raises:
        ModelError: the checkpoint cannot be loaded.
    """
    family, model_key = open_family(job.card, resources), job.card.fingerprint()
    return EditContext(job, folder, device, resources, family, store, model_key)
