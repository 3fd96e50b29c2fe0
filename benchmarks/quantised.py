"""Measures what quantised weights cost in precision: gradients of a wide random model, and edits with nano.

    python -m benchmarks.quantised [--cases N] [--work DIR] [--page docs/models-and-memory.md]

The random model is of Wan's class, with three blocks 2,048 wide. Its weights have the spread of trained ones: rows and
columns of different scales, and a few outliers. Results of edits are keyed by everything that they depend on, so the
run can be stopped and continued. Needs the extras ``gguf`` and ``quant``.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from diffusers import WanTransformer3DModel
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1] / "tests/support"))
from gguf_files import write_gguf
from native_names import native_tensor_name

import loraedit
from benchmarks.keeping import kept, result_key
from benchmarks.propagation.cases import KINDS, make_case
from benchmarks.propagation.page import made_by, span, table
from benchmarks.propagation.rows import FROM_NOTHING
from benchmarks.propagation.run import start_worker
from benchmarks.propagation.scoring import score
from benchmarks.tables import put_section
from benchmarks.truth_metrics import paired_bootstrap
from loraedit.families import open_family
from loraedit.families.card import NANO, ModelCard, read_card
from loraedit.families.quantised import quantise
from loraedit.runtime.devices import simulated_accelerator
from loraedit.settings import Resources, WeightStore
from scripts.gpu_check import run as run_once

CONFIG = {
    "num_attention_heads": 16, "attention_head_dim": 128, "ffn_dim": 8192, "num_layers": 3, "text_dim": 1024,
    "freq_dim": 256,
}  # fmt: skip
GGUF = {"Q8_0": "Q8_0", "Q6_K": "Q8_0", "Q5_K": "Q5_1", "Q4_K": "Q5_0", "Q4_0": "Q4_0"}
"""GGUF types, and what llama.cpp takes where their blocks of 256 do not divide a row."""
KINDS_HELD: tuple[WeightStore, ...] = ("fp8", "int8", "nf4")
FULL = "bfloat16"
RECIPES: dict[str, dict[str, Any]] = {
    "nano's recipe": {},
    "no prior, grey fill": {"prior": False, "fill": "grey", **FROM_NOTHING},
}
"""In the first one most of a result is carried from the first frame; in the second one all of it is the LoRA's."""


class Case(NamedTuple):
    """A model card, and how its weights are held."""

    card: ModelCard
    weights: WeightStore
    file: Path


# ---- gradients -------------------------------------------------------------------------------------------------------


def wide_model() -> dict[str, Tensor]:
    """Returns the weights of the random model, bfloat16, by native names."""
    base = json.loads((NANO / "transformer/config.json").read_text())
    torch.manual_seed(0)
    model = WanTransformer3DModel(**{name: base[name] for name in base if not name.startswith("_")} | CONFIG)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Linear):
                rows, columns = (torch.randn(size).mul(0.3).exp() for size in module.weight.shape)
                outliers = 1 + 4 * (torch.rand_like(module.weight) < 1e-3)
                module.weight.normal_(std=0.02).mul_(rows[:, None] * columns).mul_(outliers)
    return {native_tensor_name(name): value.bfloat16() for name, value in model.state_dict().items()}


def is_quantised(name: str, value: Tensor) -> bool:
    return name.startswith("blocks.") and value.ndim == 2


def gguf_kind(kind: str, name: str, value: Tensor) -> str | None:
    """Returns the type of a tensor in a file of a kind; what is not quantised is BF16, or float32 if it is small."""
    if not is_quantised(name, value):
        return "BF16" if value.ndim == 2 and value.dtype == torch.bfloat16 else None
    return kind if value.shape[1] % 256 == 0 else GGUF[kind]


def files_of(state: dict[str, Tensor], folder: Path) -> dict[str, Path]:
    """Writes the model as files of every kind; returns them by kind."""
    folder.mkdir(parents=True, exist_ok=True)
    files = {kind: folder / f"{kind}.safetensors" for kind in (FULL, "fp8 file")}
    save_file(state, files[FULL])
    scaled = dict(state)
    for name, value in state.items():
        if is_quantised(name, value):
            held = quantise(value, "fp8")
            scaled |= {name: held.codes.data, name.replace(".weight", ".scale_weight"): held.scale.data.reshape(())}
    save_file(scaled, files["fp8 file"])
    for kind in GGUF:
        files[kind] = folder / f"{kind}.gguf"
        write_gguf(files[kind], state, lambda name, value, kind=kind: gguf_kind(kind, name, value))
    return files


def cases_of(folder: Path, files: dict[str, Path]) -> dict[str, Case]:
    cases = {name: Case(read_card(folder, {"transformer": file}), "auto", file) for name, file in files.items()}
    full = cases[FULL]
    return {**cases, **{f"--weights {kind}": full._replace(weights=kind) for kind in KINDS_HELD}}


def rest_of_nano(folder: Path) -> Path:
    """Returns a copy of nano for files of the wide model, whose size of a head no shape tells."""
    shutil.copytree(NANO, folder, dirs_exist_ok=True)
    config = json.loads((folder / "transformer/config.json").read_text())
    (folder / "transformer/config.json").write_text(json.dumps({**config, "attention_head_dim": 128}))
    return folder


def held_bytes(case: Case) -> int:
    """Returns the bytes that a device which computes in bfloat16 holds."""
    family = open_family(case.card, Resources(weights=case.weights))
    with simulated_accelerator():
        transformer = family.load_transformer(family.experts[0], torch.device("cpu"))
    return sum(parameter.nbytes for parameter in transformer.parameters())


def gradient_rows(work: Path, state: dict[str, Tensor]) -> list[list[str]]:
    files = files_of(state, work / "wide")
    cases = cases_of(rest_of_nano(work / "rest"), files)
    reference, rows = run_once(cases[FULL].card, Resources(), torch.device("cpu")), []
    whole = held_bytes(cases[FULL])
    for name, case in cases.items():
        if name == FULL:
            continue
        found = run_once(case.card, Resources(weights=case.weights), torch.device("cpu"))
        alike = cosine(found.gradient, reference.gradient), cosine(found.velocity, reference.velocity)
        held = held_bytes(case)
        of_file = f"{held / case.file.stat().st_size:.3f}" if case.weights == "auto" else ""
        rows.append([f"`{name}`", f"{held / whole:.3f}", of_file, *(f"{value:.4f}" for value in alike)])
        print(rows[-1], flush=True)
    return rows


def cosine(one: Tensor, other: Tensor) -> float:
    return float(torch.nn.functional.cosine_similarity(one.flatten().double(), other.flatten().double(), 0))


# ---- edits -----------------------------------------------------------------------------------------------------------


def edit(kind: str, number: int, case: Case, settings: dict[str, Any]) -> dict[str, float]:
    clip = make_case(kind, number)
    file = {} if case.weights != "auto" else {"transformer": str(case.file)}
    result = loraedit.edit(
        clip.source, clip.truth[0], clip.mask, store="none", weights=case.weights, **file, **settings
    )
    return score(result.clip.frames, clip)


def edit_rows(work: Path, count: int, recipes: list[str]) -> list[list[str]]:
    state = load_file(NANO / "transformer/diffusion_pytorch_model.safetensors")
    cases = cases_of(NANO, files_of({native_tensor_name(name): value for name, value in state.items()}, work / "nano"))
    clips = [(kind, 0) for kind in KINDS][:count]
    quality: dict[tuple[str, str], list[float]] = {}
    for recipe in recipes:
        for kind, number in clips:
            for name, case in cases.items():
                key = result_key(name, RECIPES[recipe])
                make = partial(edit, kind, number, case, RECIPES[recipe])
                found = kept(work / f"{kind}-{number}-{key}.json", make)
                quality.setdefault((recipe, name), []).append(found["psnr"])
                print(recipe, kind, name, f"{found['psnr']:.2f}", flush=True)
    rows = []
    for name in cases:
        row = [f"`{name}`"]
        for recipe in recipes:
            ours, full = quality[recipe, name], quality[recipe, FULL]
            change = span(paired_bootstrap([one - other for one, other in zip(ours, full, strict=True)]))
            row += [f"{sum(ours) / len(ours):.2f}", "" if name == FULL else change]
        rows.append(row)
    return rows


def section(size: int, gradients: list[list[str]], edits: list[list[str]], count: int, recipes: list[str]) -> str:
    head = [part for recipe in recipes for part in (f"{recipe}: PSNR, dB", "change, dB")]
    return f"""`python -m benchmarks.quantised` writes this part. {made_by()}

A random model of Wan's class with {size / 1e6:.0f} million parameters: bytes held on a device that computes in
bfloat16, and the cosine similarity of the LoRA's gradient and of the velocity with those of the bfloat16 weights.
`fp8 file` is a scaled fp8 file as ComfyUI has it.

{table(["weights", "held, of bfloat16", "held, of the file", "gradient", "velocity"], gradients)}
Edits with nano on {count} cases of `benchmarks/propagation`, whose true result is known, against its own float32
weights (called bfloat16 here). Rows of nano's matrices are too short for most blocks of K types; there llama.cpp's
substitutes are used (Q5_0 for Q4_K). Without prior and carried frames, all of a result is the LoRA's. Intervals are
95 %, by a paired bootstrap over the cases.

{table(["weights", *head], edits)}"""


def argument_parser() -> argparse.ArgumentParser:
    """Returns the parser of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=len(KINDS))
    parser.add_argument("--recipes", nargs="*", default=list(RECIPES), choices=list(RECIPES))
    parser.add_argument("--work", type=Path, default=Path(".cache/quantised"))
    parser.add_argument("--page", type=Path, default=None, help="write the tables to this page")
    return parser


def main() -> None:
    options = argument_parser().parse_args()
    start_worker()
    edits = edit_rows(options.work, options.cases, options.recipes)
    state = wide_model()
    gradients = gradient_rows(options.work, state)
    text = section(sum(value.numel() for value in state.values()), gradients, edits, options.cases, options.recipes)
    print(text)
    if options.page is not None:
        put_section(options.page, "quantised", text)


if __name__ == "__main__":
    main()
