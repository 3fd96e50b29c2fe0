"""Training a LoRA on encoded samples."""

from loraedit.training.loop import Stage, train

__all__ = ["Stage", "train"]
