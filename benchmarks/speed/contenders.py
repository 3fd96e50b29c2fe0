"""Wraps the contenders: loraedit's loop and sampler, a plain diffusers + peft loop, and DiffSynth-Studio's Wan code."""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.util
import sys
import tempfile
import types
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from diffusers.training_utils import compute_density_for_timestep_sampling
from peft import LoraConfig, inject_adapter_in_model

from benchmarks.speed.work import CPU, LR, RANK, Contender, Work
from loraedit.families.base import batch
from loraedit.families.layer_names import native_name
from loraedit.families.wan.tensors import tensor_name
from loraedit.lora.adapter import as_autocast, attach, save_lora
from loraedit.runtime.devices import autocasts
from loraedit.sampling.sampler import sample
from loraedit.training import Stage, train

__all__ = ["diffsynth", "loraedit", "plain"]


def loraedit(work: Work, folder: Path) -> Contender:
    """Runs :func:`loraedit.training.train` and :func:`loraedit.sampling.sampler.sample` as an edit does."""
    lora = _lora_file(work, folder)
    expert = work.family.experts[0]
    sizes = work.transformer(), work.transformer()
    attach(sizes[0], work.family.lora_targets("all"), RANK, 0)
    if autocasts(CPU):
        for model in sizes:
            as_autocast(model)

    def train_steps(steps: int, on_step: Callable[..., None]) -> None:
        settings = work.training.model_copy(update={"steps": steps})
        stage = Stage([work.sample], [1])
        with tempfile.TemporaryDirectory() as passing:
            state = Path(passing) / "state.safetensors"
            train(work.family, expert, work.family.load_transformer(expert, CPU), stage, settings, state, on_step, CPU)

    def sample_steps(steps: int, on_step: Callable[..., None]) -> None:
        settings = work.sampling.model_copy(update={"sampling_steps": steps})
        with tempfile.TemporaryDirectory() as passing:
            about = {expert.name: lora}, CPU, Path(passing)
            sample(work.family, work.sample, None, settings, *about, on_step)

    return Contender("loraedit", train_steps, sample_steps, *sizes)


def plain(work: Work, dtype: torch.dtype) -> Contender:
    """Runs a loop as in diffusers' examples: peft's adapter, AdamW, and in bfloat16 autocast or a cast model."""
    learning, generating = work.transformer(), work.transformer(dtype)
    for model in (learning, generating):
        model.add_adapter(LoraConfig(r=RANK, lora_alpha=RANK, target_modules=list(work.family.lora_targets("all"))))
    generating.to(dtype)
    together = batch([work.sample])

    def train_steps(steps: int, on_step: Callable[..., None]) -> None:
        parameters = [each for each in learning.parameters() if each.requires_grad]
        optimizer = torch.optim.AdamW(parameters, lr=LR)
        scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
        learning.train()
        for _ in range(steps):
            data = together.target
            noise = torch.randn_like(data)
            drawn = compute_density_for_timestep_sampling("none", batch_size=1)
            index = (drawn * scheduler.config.num_train_timesteps).long()
            level = scheduler.sigmas[index].view(-1, 1, 1, 1, 1)
            noisy = torch.cat([(1.0 - level) * data + level * noise, together.condition], 1)
            with torch.autocast("cpu", torch.bfloat16) if dtype == torch.bfloat16 else nullcontext():
                predicted = learning(noisy, scheduler.timesteps[index], together.text, return_dict=False)[0]
            loss = torch.mean((predicted.float() - (noise - data).float()) ** 2)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            optimizer.zero_grad()
            on_step()

    def sample_steps(steps: int, on_step: Callable[..., None]) -> None:
        scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
        scheduler.set_timesteps(steps)
        latents, text = torch.randn_like(together.target), together.text.to(dtype)
        for timestep in scheduler.timesteps:
            with torch.no_grad():
                seen = torch.cat([latents, together.condition], 1).to(dtype)
                predicted = generating(seen, timestep.expand(1), text, return_dict=False)[0]
                latents = scheduler.step(predicted, timestep, latents, return_dict=False)[0]
            on_step()

    return Contender(f"diffusers + peft, {_named(dtype)}", train_steps, sample_steps, learning, generating)


def diffsynth(work: Work, folder: Path, dtype: torch.dtype, checkpointing: bool) -> Contender:
    """Runs DiffSynth-Studio's Wan transformer, loss, scheduler and LoRA loader, with the same weights."""
    _import_what_is_used_alone()
    from diffsynth.diffusion.flow_match import FlowMatchScheduler
    from diffsynth.diffusion.loss import FlowMatchSFTLoss
    from diffsynth.pipelines.wan_video import model_fn_wan_video
    from diffsynth.utils.lora.general import GeneralLoRALoader

    learning, generating = _native(work, dtype), _native(work, dtype)
    targets = [native_name(f"blocks.0.{name}").split(".", 2)[2] for name in work.family.lora_targets("all")]
    inject_adapter_in_model(LoraConfig(r=RANK, lora_alpha=RANK, target_modules=targets), learning)
    from safetensors.torch import load_file

    GeneralLoRALoader("cpu", dtype).fuse_lora_to_base_model(generating, load_file(_lora_file(work, folder)))
    together = batch([work.sample])
    known = {"context": together.text.to(dtype), "y": together.condition.to(dtype)}
    data = together.target.to(dtype)

    def train_steps(steps: int, on_step: Callable[..., None]) -> None:
        parameters = [each for each in learning.parameters() if each.requires_grad]
        optimizer = torch.optim.AdamW(parameters, lr=LR, weight_decay=1e-2)
        scheduler = FlowMatchScheduler("Wan")
        scheduler.set_timesteps(1000, training=True)
        pipe = types.SimpleNamespace(
            scheduler=scheduler, torch_dtype=dtype, device=CPU, dit=learning, in_iteration_models=("dit",),
            model_fn=model_fn_wan_video,
        )  # fmt: skip
        learning.train()
        for _ in range(steps):
            loss = FlowMatchSFTLoss(pipe, input_latents=data, use_gradient_checkpointing=checkpointing, **known)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            on_step()

    def sample_steps(steps: int, on_step: Callable[..., None]) -> None:
        scheduler = FlowMatchScheduler("Wan")
        scheduler.set_timesteps(steps)
        latents = torch.randn_like(data)
        for timestep in scheduler.timesteps:
            with torch.no_grad():
                predicted = model_fn_wan_video(
                    dit=generating, latents=latents, timestep=timestep.unsqueeze(0).to(dtype), **known
                )
                latents = scheduler.step(predicted, timestep, latents)
            on_step()

    name = f"DiffSynth-Studio, {_named(dtype)}" + (", checkpointing" if checkpointing else "")
    return Contender(name, train_steps, sample_steps, learning, generating)


def _native(work: Work, dtype: torch.dtype) -> Any:
    """Returns DiffSynth's transformer with the checkpoint's weights, frozen."""
    from diffsynth.models.wan_video_dit import WanModel

    ours = work.transformer()
    config = ours.config
    model = WanModel(
        dim=config.num_attention_heads * config.attention_head_dim, in_dim=config.in_channels,
        ffn_dim=config.ffn_dim, out_dim=config.out_channels, text_dim=config.text_dim, freq_dim=config.freq_dim,
        eps=config.eps, patch_size=tuple(config.patch_size), num_heads=config.num_attention_heads,
        num_layers=config.num_layers, has_image_input=False,
    )  # fmt: skip
    weights = ours.state_dict()
    model.load_state_dict({name: weights[tensor_name(name)] for name in model.state_dict()})
    return model.to(dtype).requires_grad_(False)


def _lora_file(work: Work, folder: Path) -> Path:
    """Writes the LoRA file with which all contenders generate."""
    path = folder / "lora.safetensors"
    if not path.exists():
        transformer = work.transformer()
        attach(transformer, work.family.lora_targets("all"), RANK, 0)
        save_lora(path, work.family, transformer, {})
    return path


def _named(dtype: torch.dtype) -> str:
    return "bf16" if dtype == torch.bfloat16 else "fp32"


class _Absent(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Replaces modules that DiffSynth imports for its data and downloads, if they are not installed."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = [name for name in names if importlib.util.find_spec(name) is None]

    def find_spec(self, name: str, *_: Any) -> Any:
        if name.split(".")[0] in self.names:
            return importlib.machinery.ModuleSpec(name, self, is_package=True)
        return None

    def create_module(self, spec: Any) -> types.ModuleType:
        module = types.ModuleType(spec.name)
        module.__getattr__ = lambda name: MagicMock() if name[:2] != "__" else _no(name)  # type: ignore[method-assign]
        return module

    def exec_module(self, module: Any) -> None:
        pass


def _no(name: str) -> None:
    raise AttributeError(name)


def _import_what_is_used_alone() -> None:
    """Makes torchvision, modelscope and pandas optional, since DiffSynth's data pipeline is not used."""
    if not any(isinstance(finder, _Absent) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Absent(["torchvision", "modelscope", "pandas", "imageio"]))
