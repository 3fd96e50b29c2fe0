"""Training the LoRA: one loop that eats samples."""

from loraedit.training.loop import Phase, train

__all__ = ["Phase", "train"]
