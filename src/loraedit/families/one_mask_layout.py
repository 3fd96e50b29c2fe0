"""What a folder of HunyuanVideo or LTX holds, as far as its configuration decides it: classes, blocks, sizes.

Works on small JSON files and headers alone. These models have options that come and go with their releases, so a file
may hold more tensors than are named here; what is loaded besides is for the libraries to say.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loraedit.errors import ModelError
from loraedit.families.folder import AGAIN, Shapes

__all__ = ["HUNYUAN", "HUNYUAN_15", "LTX", "LTX_2", "OneMaskLayout"]

Config = Mapping[str, Any]

COMMON = {
    "tokenizer": r"transformers\.\w*Tokeniz\w*",
    "tokenizer_2": r"transformers\.\w*Tokeniz\w*",
    "scheduler": r"diffusers\.\w+Scheduler",
}


@dataclass(frozen=True)
class OneMaskLayout:
    """How the checkpoints of one family look.

    Attributes:
        parts: what its components may be, as :func:`loraedit.families.folder.check_classes` takes it.
        lists: lists of blocks in the transformer, and where its configuration counts them.
        decided: shapes of single tensors that follow from the configuration.
    """

    parts: Mapping[str, str]
    lists: Mapping[str, str]
    decided: Callable[[Config], Shapes]

    @property
    def classes(self) -> dict[str, str]:
        """``library.Class`` as a regular expression, by component."""
        return {**COMMON, **self.parts}

    def check(self, shapes: Shapes, config: Config, where: Path) -> None:
        """The tensors of a transformer are those that its configuration speaks of.

        Raises:
            ModelError: it has another number of blocks or another size, or a block is not like the others.
        """
        for blocks, count in self.lists.items():
            _check_blocks(shapes, blocks, int(config[count]), where)
        for name, shape in self.decided(config).items():
            if name not in shapes:
                raise ModelError(f"'{where}' lacks the tensor {name}. {AGAIN}")
            if shapes[name] != shape:
                raise ModelError(
                    f"'{where}' is not what its configuration says: {name} is {list(shapes[name])}, not {list(shape)}. "
                    "Give the model that the configuration belongs to."
                )


def _check_blocks(shapes: Shapes, blocks: str, count: int, where: Path) -> None:
    """There are so many, and each has the tensors of the first."""
    found: dict[int, Shapes] = {}
    for name, shape in shapes.items():
        if (match := re.fullmatch(rf"{re.escape(blocks)}\.(\d+)\.(.+)", name)) is not None:
            found.setdefault(int(match[1]), {})[match[2]] = shape
    if found.keys() != set(range(count)):
        raise ModelError(
            f"'{where}' is not what its configuration says: {blocks} has {len(found)} blocks, not {count}. "
            "Give the model that the configuration belongs to."
        )
    for index, block in sorted(found.items()):
        for name in sorted(found[0].keys() | block.keys()):
            if block.get(name) != found[0].get(name):
                problem = "lacks" if name not in block else "has in another size than block 0"
                raise ModelError(f"Block {index} of {blocks} in '{where}' {problem} the tensor {name}. {AGAIN}")


def _width(config: Config) -> int:
    return int(config["num_attention_heads"] * config["attention_head_dim"])


def _patch(config: Config) -> tuple[int, int, int]:
    return config["patch_size_t"], config["patch_size"], config["patch_size"]


def _hunyuan_both(config: Config) -> Shapes:
    dim, patch = _width(config), _patch(config)
    return {
        "x_embedder.proj.weight": (dim, config["in_channels"], *patch),
        "context_embedder.proj_in.weight": (dim, config["text_embed_dim"]),
        "transformer_blocks.0.ff.net.0.proj.weight": (int(dim * config["mlp_ratio"]), dim),
        "proj_out.weight": (config["out_channels"] * math.prod(patch), dim),
    }


def _hunyuan(config: Config) -> Shapes:
    dim = _width(config)
    guided = {"time_text_embed.guidance_embedder.linear_2.weight": (dim, dim)} if config["guidance_embeds"] else {}
    pooled = {"time_text_embed.text_embedder.linear_1.weight": (dim, config["pooled_projection_dim"])}
    return {**_hunyuan_both(config), **pooled, **guided}


def _hunyuan_15(config: Config) -> Shapes:
    return {
        **_hunyuan_both(config),
        "context_embedder_2.norm.weight": (config["text_embed_2_dim"],),
        "image_embedder.linear_2.weight": (_width(config), config["image_embed_dim"]),
    }


def _ltx(config: Config) -> Shapes:
    dim = _width(config)
    return {
        "proj_in.weight": (dim, config["in_channels"]),
        "transformer_blocks.0.attn2.to_k.weight": (dim, config["cross_attention_dim"]),
        "proj_out.weight": (config["out_channels"], dim),
    }


def _ltx_2(config: Config) -> Shapes:
    sound = config["audio_num_attention_heads"] * config["audio_attention_head_dim"]
    return {**_ltx(config), "audio_proj_in.weight": (sound, config["audio_in_channels"])}


HUNYUAN = OneMaskLayout(
    {
        "transformer": r"diffusers\.HunyuanVideoTransformer3DModel",
        "vae": r"diffusers\.AutoencoderKLHunyuanVideo",
        "text_encoder": r"transformers\.Llava\w+",
        "text_encoder_2": r"transformers\.CLIPText\w+",
        "image_processor": r"transformers\.CLIP\w*Processor\w*",
    },
    {
        "transformer_blocks": "num_layers",
        "single_transformer_blocks": "num_single_layers",
        "context_embedder.token_refiner.refiner_blocks": "num_refiner_layers",
    },
    _hunyuan,
)
HUNYUAN_15 = OneMaskLayout(
    {
        "transformer": r"diffusers\.HunyuanVideo15Transformer3DModel",
        "vae": r"diffusers\.AutoencoderKLHunyuanVideo15",
        "text_encoder": r"transformers\.Qwen2_5_VL\w+",
        "text_encoder_2": r"transformers\.T5EncoderModel",
        "image_encoder": r"transformers\.Siglip\w+",
        "feature_extractor": r"transformers\.Siglip\w*Processor\w*",
        "guider": r"diffusers\.\w+Guidance",
    },
    {"transformer_blocks": "num_layers", "context_embedder.token_refiner.refiner_blocks": "num_refiner_layers"},
    _hunyuan_15,
)
LTX = OneMaskLayout(
    {
        "transformer": r"diffusers\.LTXVideoTransformer3DModel",
        "vae": r"diffusers\.AutoencoderKLLTXVideo",
        "text_encoder": r"transformers\.T5EncoderModel",
    },
    {"transformer_blocks": "num_layers"},
    _ltx,
)
LTX_2 = OneMaskLayout(
    {
        "transformer": r"diffusers\.LTX2VideoTransformer3DModel",
        "vae": r"diffusers\.AutoencoderKLLTX2Video",
        "text_encoder": r"transformers\.Gemma3\w+",
        "connectors": r"ltx2\.LTX2TextConnectors",
    },
    {"transformer_blocks": "num_layers"},
    _ltx_2,
)
