"""The transformer's training data: clips rendered and encoded in shards, of which the last few are drawn from.

A shard depends on its number, its kind of clip and the kind of device alone. On a CPU shards are kept on disk too, so
that a resumed run need not make them again.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKLWan
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from pretrain.clips import Source
from pretrain.config import ClipKind, TransformerPlan
from pretrain.render.dice import Dice
from pretrain.schedule import Budget
from pretrain.text import to_ids
from pretrain.vae_model import encode, normalised

__all__ = ["Encoder", "Pool", "make_shard"]

Shard = dict[str, Tensor]
SHARD_KEY, BATCH_KEY = 2, 5
STILL_SHARE = 0.06
"""Share of the batches that are stills."""
GROUP = {"cpu": 8, "accelerator": 256}
"""Clips of 64 x 64 x 17 that are encoded in one go."""


@dataclass(frozen=True)
class Encoder:
    """What turns scenes into latents: a source of clips, a VAE, a tokenizer and the plan."""

    source: Source
    vae: AutoencoderKLWan
    tokenizer: PreTrainedTokenizerFast
    plan: TransformerPlan


def tokens(kind: ClipKind) -> int:
    """Returns the transformer's sequence length for a clip, at patches of 2 x 2 latents."""
    return ((kind.frames - 1) // 2 + 1) * (kind.height // 8) * (kind.width // 8)


def kept_frames(dice: Dice, kind: ClipKind, count: int, last_kept: float) -> Tensor:
    """Draws which whole frames the condition keeps, bool ``[count, F]``: the first, in some clips the last as well.

    Of stills, half keep nothing. No part of a frame is ever kept alone: reading such masks is what a LoRA learns.
    """
    kept = torch.zeros((count, kind.frames), dtype=torch.bool, device=dice.device)
    kept[:, 0] = (dice.some(0.5, count) > 0) if kind.frames == 1 else True
    if kind.frames > 1:
        kept[:, -1] |= dice.some(last_kept, count) > 0
    return kept


def pack_kept(kept: Tensor, height: int, width: int) -> Tensor:
    """Returns Wan's mask channels ``[B, 2, f, h, w]`` of kept frames ``[B, F]``; 1 = keep."""
    line = torch.cat([kept[:, :1].repeat(1, 2), kept[:, 1:]], 1).unflatten(1, (-1, 2)).mT
    return line[..., None, None].expand(-1, -1, -1, height, width)


@torch.no_grad()
def make_shard(encoder: Encoder, number: int, kind: ClipKind, count: int) -> Shard:
    """Renders and encodes one shard: target, condition, kept frames, object cells and caption ids."""
    device = encoder.source.device
    group = GROUP["cpu" if device.type == "cpu" else "accelerator"]
    group = max(1, round(group * 17 * 64 * 64 / (kind.frames * kind.height * kind.width)))
    parts: list[Shard] = []
    for start in range(0, count, group):
        key = (SHARD_KEY, number, kind.frames, kind.height, kind.width, start)
        parts.append(_encoded(encoder, key, kind, min(group, count - start)))
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def _encoded(encoder: Encoder, key: tuple[int, ...], kind: ClipKind, count: int) -> Shard:
    device = encoder.source.device
    clips, captions = encoder.source.clips(key, count, kind.frames, kind.height, kind.width)
    dice = Dice(device, *key, 1)
    kept, pixels = kept_frames(dice, kind, count, encoder.plan.last_kept), clips.pixels
    shown = pixels * kept[:, None, :, None, None]
    with torch.autocast(device.type, torch.bfloat16):
        target, condition = (normalised(encoder.vae, encode(encoder.vae, clip).mean).half() for clip in (pixels, shown))
    moving = clips.moving[:, None]
    cells = F.adaptive_avg_pool3d(torch.cat([moving[:, :, :1], moving], 2), target.shape[2:])[:, 0] > 0.1
    silent = dice.pick([1 - encoder.plan.no_caption, encoder.plan.no_caption], count).tolist()
    words = ["" if quiet else text for quiet, text in zip(silent, captions, strict=True)]
    return {
        "target": target, "condition": condition, "kept": kept, "object": cells,
        "ids": to_ids(encoder.tokenizer, words).to(device),
    }  # fmt: skip


class Pool:
    """The shards of the last few rounds; the batch of a step is drawn from (seed, step).

    Args:
        folder: where shards are kept on disk, or None.
        budget: of the training; it decides when large clips come in.
    """

    def __init__(self, encoder: Encoder, folder: Path | None, budget: Budget) -> None:
        self.encoder, self.folder, self.budget = encoder, folder, budget
        self.shards: dict[tuple[int, ClipKind], Shard] = {}
        self._large_since: int | None = None

    def batch(self, step: int, share: float) -> Shard:
        """Returns the batch of a step: clips of one kind, about as many tokens as the plan says.

        Args:
            share: of the budget that is used.
        """
        plan, device = self.encoder.plan, self.encoder.source.device
        number = step // plan.shard_steps.on(device)
        if self._large_since is None and share >= plan.large_from:
            self._large_since = number
        recent = range(max(0, number - plan.shards + 1), number + 1)
        self._hold([(index, kind) for index in recent for kind in self._kinds(index)])
        kinds = self._kinds(number)
        dice = Dice(torch.device("cpu"), BATCH_KEY, step)
        kind = kinds[int(dice.pick(self._shares(kinds), 1))]
        numbers = sorted(index for index, other in self.shards if other == kind)
        shard = self.shards[numbers[dice.index(len(numbers))], kind]
        limit = plan.tokens.on(device)
        size = max(2, limit // tokens(kind)) if kind.frames > 1 else limit // (3 * tokens(kind))
        rows = dice.indices(len(shard["ids"]), size).to(device)
        return {name: values[rows] for name, values in shard.items()}

    def _kinds(self, number: int) -> tuple[ClipKind, ...]:
        """Returns which kinds of clips a shard of a number has; by the clock, this is settled as time goes by."""
        plan = self.encoder.plan
        if self.budget.seconds is None:
            large = self.budget.share(number * plan.shard_steps.on(self.encoder.source.device), 0) >= plan.large_from
        else:
            large = self._large_since is not None and number >= self._large_since
        return plan.large if large else plan.small

    @staticmethod
    def _shares(kinds: tuple[ClipKind, ...]) -> list[float]:
        """Returns how often each kind is drawn: clips by their work, stills seldom."""
        work = [kind.clips * tokens(kind) * (kind.frames > 1) for kind in kinds]
        return [part / sum(work) * (1 - STILL_SHARE) if part else STILL_SHARE for part in work]

    def _hold(self, wanted: list[tuple[int, ClipKind]]) -> None:
        """Makes the shards that are missing, lets go of the others."""
        for key in set(self.shards) - set(wanted):
            del self.shards[key]
            if self.folder is not None:
                self._file(*key).unlink(missing_ok=True)
        for key in wanted:
            if key not in self.shards:
                self.shards[key] = self._load(*key)

    def _file(self, number: int, kind: ClipKind) -> Path:
        assert self.folder is not None
        return self.folder / f"{number:05d}-{kind.name}.safetensors"

    def _load(self, number: int, kind: ClipKind) -> Shard:
        plan, device = self.encoder.plan, self.encoder.source.device
        count = plan.shard_clips.on(device) * kind.clips // sum(each.clips for each in self._kinds(number))
        count = max(2, count)
        if self.folder is None:
            return make_shard(self.encoder, number, kind, count)
        path = self._file(number, kind)
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary = path.with_suffix(".tmp")
            save_file({k: v.contiguous() for k, v in make_shard(self.encoder, number, kind, count).items()}, temporary)
            temporary.rename(path)
        return {name: values.to(device) for name, values in load_file(path).items()}
