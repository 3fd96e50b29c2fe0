"""Tokenizer and text encoder: a byte-level vocabulary over the captions, and a small UMT5."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import Tensor
from transformers import PreTrainedTokenizerFast, UMT5Config, UMT5EncoderModel

__all__ = ["TEXT_TOKENS", "build_text_encoder", "build_tokenizer", "embed", "to_ids"]

TEXT_TOKENS = 32


def build_tokenizer(captions: Iterable[str]) -> PreTrainedTokenizerFast:
    """Returns a byte-level BPE: caption words are one token each, anything else falls back to bytes."""
    tokenizer = Tokenizer(models.BPE(unk_token=None))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=512, special_tokens=["<pad>", "</s>"], initial_alphabet=sorted(alphabet))
    tokenizer.train_from_iterator(captions, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>")


def build_text_encoder(vocabulary: int, channels: int, layers: int) -> UMT5EncoderModel:
    """Returns a fresh encoder."""
    return UMT5EncoderModel(
        UMT5Config(
            vocab_size=vocabulary, d_model=channels, d_kv=16, d_ff=2 * channels, num_layers=layers,
            num_heads=channels // 16, dropout_rate=0.0, pad_token_id=0, eos_token_id=1, decoder_start_token_id=0,
            tie_word_embeddings=True,
        )
    )  # fmt: skip


def embed(encoder: UMT5EncoderModel, ids: Tensor) -> Tensor:
    """Returns embeddings ``[B, TEXT_TOKENS, C]`` of padded ids; padding is zero, as in Wan's own pipeline."""
    mask = ids.ne(0)
    hidden: Tensor = encoder(ids, mask.long()).last_hidden_state
    return hidden * mask[..., None]


def to_ids(tokenizer: PreTrainedTokenizerFast, captions: list[str]) -> Tensor:
    """Returns padded token ids, int64 ``[B, TEXT_TOKENS]``."""
    batch = tokenizer(captions, padding="max_length", max_length=TEXT_TOKENS, truncation=True, return_tensors="pt")
    ids: Tensor = batch.input_ids
    return ids.to(torch.int64)
