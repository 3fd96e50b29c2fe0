"""Tiny random encoders of text and images, as transformers itself would write them."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import BitImageProcessor, CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPTokenizer, Dinov2Config
from transformers import Dinov2Model as Dino

SMALL = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}


def save_tiny_clip_model(folder: Path, seed: int = 5) -> Path:
    """Writes a random CLIP model with both towers and a tokenizer of bytes."""
    torch.manual_seed(seed)
    letters = [*"abcdefghijklmnopqrstuvwxyz", *(f"{letter}</w>" for letter in "abcdefghijklmnopqrstuvwxyz")]
    words = ["<|startoftext|>", "<|endoftext|>", *letters]
    tokenizer = CLIPTokenizer(vocab={word: index for index, word in enumerate(words)}, merges=[])
    text = {**SMALL, "vocab_size": len(words), "bos_token_id": 0, "eos_token_id": 1, "max_position_embeddings": 77}
    vision = {**SMALL, "image_size": 28, "patch_size": 14}
    CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)).save_pretrained(folder)
    CLIPImageProcessor(size=28, crop_size=28).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def save_tiny_dino(folder: Path) -> Path:
    """Writes a random DINOv2 model."""
    torch.manual_seed(6)
    Dino(Dinov2Config(**SMALL, image_size=28, patch_size=14, mlp_ratio=1)).save_pretrained(folder)
    BitImageProcessor(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28}).save_pretrained(folder)
    return folder


def save_tiny_encoders(root: Path) -> list[str]:
    """Writes an encoder of each kind; returns them as options."""
    clip, pick = save_tiny_clip_model(root / "clip"), save_tiny_clip_model(root / "pick", seed=7)
    return [f"clip={clip}", f"dino={save_tiny_dino(root / 'dino')}", f"pick={pick}"]
