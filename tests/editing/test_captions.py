"""Captions by transformers' own classes, from a tiny random Florence-2 checkpoint."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scenes import Scene
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    BartConfig,
    CLIPImageProcessor,
    Florence2Config,
    Florence2ForConditionalGeneration,
    Florence2Processor,
    PreTrainedTokenizerFast,
)

from loraedit.editing.captions import caption, captioned
from loraedit.errors import InputError, ModelError
from loraedit.job.prepare import prepare
from loraedit.job.request import EditRequest
from loraedit.settings import make_settings

CPU = torch.device("cpu")
SIDE = 64
IMAGE_TOKENS = (SIDE // 32) ** 2 + 1
WORDS = ["<s>", "<pad>", "</s>", "<unk>", "<image>", "a", "red", "coat", "Describe", "in", "detail", "what", "is"]


@pytest.fixture(scope="module")
def florence(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("florence")
    text = BartConfig(
        vocab_size=len(WORDS), d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=16, decoder_ffn_dim=16, max_position_embeddings=160,
        bos_token_id=0, pad_token_id=1, eos_token_id=2, decoder_start_token_id=2, forced_eos_token_id=2,
    )  # fmt: skip
    vision = {
        "depths": (1, 1, 1, 1), "embed_dim": (8, 8, 8, 8), "num_heads": (2, 2, 2, 2), "num_groups": (2, 2, 2, 2),
        "window_size": 2, "projection_dim": 16,
    }  # fmt: skip
    config = Florence2Config(text_config=text.to_dict(), vision_config=vision, image_token_id=WORDS.index("<image>"))
    Florence2ForConditionalGeneration(config).save_pretrained(folder)
    words = Tokenizer(models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>",
        extra_special_tokens={"image_token": "<image>"},
    )  # fmt: skip
    pictures = CLIPImageProcessor(size={"height": SIDE, "width": SIDE}, do_center_crop=False)
    pictures.image_seq_length = IMAGE_TOKENS
    Florence2Processor(pictures, tokenizer).save_pretrained(folder)
    return folder


@pytest.mark.filterwarnings("ignore")
def test_a_picture_always_gets_the_same_caption(florence: Path, scene: Scene) -> None:
    words = caption(scene.edited_first, str(florence), CPU)
    assert set(words.split()) <= set(WORDS)
    assert words == caption(scene.edited_first, str(florence), CPU)


@pytest.mark.filterwarnings("ignore")
def test_an_auto_prompt_becomes_a_cached_caption(
    florence: Path, scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = make_settings({"prompt": "auto", "captioner": str(florence)})
    job = prepare(EditRequest(scene.source, scene.edited_first, scene.mask, settings=settings))
    found = captioned(job, tmp_path, CPU)
    assert found.settings.prompt != "auto" and found.settings.source_prompt == ""
    monkeypatch.setattr("loraedit.editing.captions.caption", None)
    assert captioned(job, tmp_path, CPU).settings == found.settings


def test_an_auto_prompt_without_a_captioner_is_refused(scene: Scene) -> None:
    with pytest.raises(InputError, match="--captioner"):
        prepare(EditRequest(scene.source, scene.edited_first, scene.mask, settings=make_settings({"prompt": "auto"})))


def test_other_models_are_refused_as_captioners(checkpoint: Path, tmp_path: Path) -> None:
    picture = np.zeros((8, 8, 3), np.uint8)
    with pytest.raises(ModelError, match="Florence-2 or a Qwen-VL"):
        caption(picture, str(checkpoint / "text_encoder"), CPU)
    with pytest.raises(ModelError, match="cannot be loaded"):
        caption(picture, str(tmp_path), CPU)
