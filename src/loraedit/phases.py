"""The phases of a command, and of a plan: their names, and what users see instead."""

from __future__ import annotations

__all__ = ["PHASE_LABELS", "PLAN_LABELS", "phase_label"]

PHASE_LABELS = {
    "check": "Checking the jobs",
    "plan": "Planning",
    "download": "Downloading",
    "read": "Reading the clip",
    "mask": "Making the mask",
    "load": "Loading libraries",
    "caption": "Describing the frames",
    "prepare": "Tracing motion",
    "preview": "Previewing",
    "encode": "Encoding",
    "train": "Training the LoRA",
    "sample": "Generating",
    "decode": "Decoding",
    "compose": "Writing",
}

PLAN_LABELS = {
    "text_encode": "Text encoder", "image_encode": "Image encoder", "vae_encode": "VAE, encoding",
    "train": "A training step", "sample": "A sampling pass", "vae_decode": "VAE, decoding",
}  # fmt: skip


def phase_label(phase: str) -> str:
    """Returns the label of a phase; a phase without one is shown by its name."""
    return PHASE_LABELS.get(phase, phase)
