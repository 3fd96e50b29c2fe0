"""Training the LoRA: one loop that eats samples."""

from loraedit.training.loop import Stage, train

__all__ = ["Stage", "train"]
