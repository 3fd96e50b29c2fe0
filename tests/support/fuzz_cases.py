"""Makes faulty command lines and faulty input files; case N of a seed is always the same."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from mutants import hostile_json, hostile_tensors, huge_png, mutate, pickled, zip_slip

__all__ = ["Case", "make_case"]

Rng = np.random.Generator
CLIPS = ("clip.mp4", "clip.mkv", "clip.avi", "clip.webm", "moving.gif", "moving.webp", "moving.png")
IMAGES = (
    "edited.png", "edited.jpg", "edited.webp", "edited.bmp", "edited.tif", "edited.gif", "cmyk.jpg", "cmyk.tif",
    "deep.png", "deep.tif", "grey16.png", "float.tif", "palette.png", "turned.jpg", "turned.png",
)  # fmt: skip
NAMES = (
    "a b", "it's", 'so "quoted"', "new\nline", "\U0001f600", "-rf", "--help", "%s{0}", "x" * 250, "..hidden", "é\u0301",
    "[red]", "a:b", "K=1", "\u202etxt", "tab\there", "back\\slash", "con",
)  # fmt: skip
FORMS = ("comfyui", "musubi", "diffusers", "x")
NUMBERS = (
    "nan", "inf", "-inf", "-1", "0", "1e400", "99999999999999999999", "", "x", "0x10", "1.5", " 7 ", "\u0663", "-0",
)  # fmt: skip
TEXTS = (
    "", " ", "\0", "x" * 10_000, "\U0001f600", "--out", "../..", "%n", "[bold]", "=", ":", "1=", "0=a.png", "a=b=c",
)  # fmt: skip
DEVICES = (
    "/dev/zero", "/dev/null", "/dev/urandom", "/dev/full", "/proc/self/mem", "/proc/kmsg", "/", "/dev", "/dev/stdin",
)  # fmt: skip


@dataclass(frozen=True)
class Case:
    """Holds a command line, and the kind of its fault."""

    kind: str
    arguments: list[str]


# ---- what is wrong ---------------------------------------------------------------------------------------------------


def make_case(number: int, seed: int, kit: Path, folder: Path) -> Case:
    """Makes case number N: writes its files into an empty folder, in which its command line is to run."""
    rng = np.random.default_rng((seed, number))
    kinds = sorted(_CASES)
    kind = kinds[number % len(kinds)]
    return Case(kind, _CASES[kind](rng, kit, folder))


def _one(rng: Rng, among: tuple[str, ...]) -> str:
    return among[int(rng.integers(len(among)))]


def _mutant(rng: Rng, kit: Path, folder: Path, name: str) -> Path:
    """Writes a damaged copy of one of the kit's files."""
    source = kit / name
    path = folder / f"bad{source.suffix}"
    path.write_bytes(mutate(source.read_bytes(), source.suffix, rng))
    return path


def _edit(kit: Path, **given: str | Path) -> list[str]:
    """Returns the command line of a valid edit with the given arguments replaced."""
    first = given.pop("first_frame", kit / "edited.png")
    source, options = str(given.pop("source", kit / "clip.mkv")), {"mask": kit / "mask.mkv", **given}
    line = ["edit", f"--first-frame={first}", "--steps=1", "--sampling-steps=1"]
    line += [f"--{name.replace('_', '-')}={value}" for name, value in {"model": kit / "model", **options}.items()]
    return [*line, *([] if "out" in options else ["--out=out.mkv"]), "--", source]


def _source(rng: Rng, kit: Path, folder: Path) -> list[str]:
    return _edit(kit, source=_mutant(rng, kit, folder, _one(rng, CLIPS)))


def _mask(rng: Rng, kit: Path, folder: Path) -> list[str]:
    return _edit(kit, mask=_mutant(rng, kit, folder, _one(rng, (*CLIPS, "mask.mkv", "mask.mkv", "edited.png"))))


def _first(rng: Rng, kit: Path, folder: Path) -> list[str]:
    if rng.random() < 0.15:
        path = folder / "huge.png"
        path.write_bytes(huge_png(*(int(rng.choice([0, 1, 20_000, 65_535, 2**31 - 1])) for _ in range(2))))
        return _edit(kit, first_frame=path)
    whole = rng.random() < 0.1
    name = _one(rng, (*IMAGES, *CLIPS))
    return _edit(kit, first_frame=kit / name if whole else _mutant(rng, kit, folder, name))


def _frames(rng: Rng, kit: Path, folder: Path) -> list[str]:
    """Writes a folder of frames in which some are damaged, missing, doubled, links, or something else."""
    frames = folder / "frames"
    shutil.copytree(kit / "frames", frames)
    for path in sorted(frames.iterdir()):
        choice = int(rng.integers(9))
        if choice < 3:
            continue
        content = path.read_bytes()
        path.unlink()
        if choice == 3:
            path.write_bytes(mutate(content, ".png", rng))
        elif choice == 4:
            path.symlink_to(
                _one(rng, ("frames", "../frames", "nowhere", path.name, "/dev/zero", str(kit / "edited.jpg")))
            )
        elif choice == 5:
            path.mkdir()
        elif choice == 6:
            os.mkfifo(path)
        elif choice == 7:
            path.write_bytes((kit / _one(rng, IMAGES)).read_bytes())
    return _edit(kit, source=frames)


def _special(rng: Rng, kit: Path, folder: Path) -> list[str]:
    """Puts something in place of a file that is not a regular file."""
    path = folder / _one(rng, ("thing", "thing.png", "thing.mkv", "thing.safetensors"))
    choice = int(rng.integers(7))
    if choice == 0:
        os.mkfifo(path)
    elif choice == 1:
        path.symlink_to(path.name)
    elif choice == 2:
        path.symlink_to(_one(rng, DEVICES))
    elif choice == 3:
        path.mkdir()
        path.chmod(0)
    elif choice == 4:
        path.mkdir()
        (path / "00000.png").symlink_to("..")
    elif choice == 5:
        path.write_bytes(b"")
    else:
        path = Path(_one(rng, DEVICES))
    return _with_path(rng, kit, path)


def _with_path(rng: Rng, kit: Path, path: Path | str) -> list[str]:
    """Returns a command with this path as one of its arguments."""
    lines = [
        _edit(kit, source=path), _edit(kit, mask=path), _edit(kit, first_frame=path), _edit(kit, reference=f"2={path}"),
        _edit(kit, model=path), _edit(kit, transformer=path), _edit(kit, extra_lora=path),
        _edit(kit, object=f"thing:mask={path}"), ["edit", *_edit(kit, run=path)[1:]], _edit(kit, out=path),
        ["lora", "show", "--", str(path)], ["lora", "convert", "--format=musubi", "--", str(path), "out.safetensors"],
        ["lora", "convert", "--format=musubi", "--", str(kit / "lora.safetensors"), str(path)],
        ["lora", "export", "--format=musubi", "--out=out.safetensors", "--", str(path)],
        ["evaluate", "--", str(path)], ["evaluate", f"--image-encoder={path}", "--", str(kit / "run")],
        ["repeat", "--run=again", "--", str(path)], ["models", "--", str(path)],
        ["plan", f"--first-frame={kit / 'edited.png'}", f"--mask={path}", "--", str(kit / "clip.mkv")],
        ["mask", f"--from-edit={path}", "--out=out", "--", str(kit / "clip.mkv")],
        ["mask", f"--from-edit={kit / 'edited.png'}", "--out=out", "--", str(path)],
        ["mask", f"--seed-mask=0={path}", "--out=out", "--", str(kit / "clip.mkv")],
        ["batch", "--", str(path)], ["store", f"--store={path}"], _edit(kit, store=path),
    ]  # fmt: skip
    return lines[int(rng.integers(len(lines)))]


def _name(rng: Rng, kit: Path, folder: Path) -> list[str]:
    """Writes a damaged file with an unusual name."""
    name = _one(rng, NAMES)
    suffix = _one(rng, ("", ".png", ".mkv", ".safetensors"))
    path = folder / f"{name[: 255 - len(suffix)]}{suffix}"
    if rng.random() < 0.7:
        path.write_bytes(mutate((kit / "edited.png").read_bytes(), ".png", rng))
    return _with_path(rng, kit, path.name if rng.random() < 0.7 else path)


def _numbers(rng: Rng, kit: Path, _: Path) -> list[str]:
    names = (
        "steps", "lr", "rank", "batch-size", "seed", "sampling-steps", "guidance", "margin", "dilate-px", "feather-px",
        "segment-frames", "area", "context", "strength", "vram", "distilled-steps", "step-cache", "edit-weight",
        "colour-variants", "min-noise-level", "train-seed", "reference-steps",
    )  # fmt: skip
    line = _edit(kit)
    return [
        *line[:-2],
        *(f"--{_one(rng, names)}={_one(rng, NUMBERS)}" for _ in range(int(rng.integers(1, 3)))),
        *line[-2:],
    ]


def _texts(rng: Rng, kit: Path, _: Path) -> list[str]:
    names = (
        "reference", "object", "mask", "model", "transformer", "extra-lora", "device", "tracker", "crop", "codec",
        "lora", "weights", "attention", "training-attention", "captioner", "tracker-model", "recipe", "run", "out",
        "first-frame", "fill",
    )  # fmt: skip
    value = _one(rng, (*TEXTS, *NUMBERS, "1,2,3", "0,0,9999999999,3", "-5,-5,2,2", "9=edited.png", "1=1=1"))
    return [*(line := _edit(kit))[:-2], f"--{_one(rng, names)}={value}".replace("\0", "\x01"), *line[-2:]]


def _hints(rng: Rng, kit: Path, folder: Path) -> list[str]:
    points = (
        "0:1,1", "0:-5,3", "99:1,1", "0:99999999999,1", "0:nan,1", "0:1,1:out", "x", "", "0:1", "0:1,2,3,4", "4:3,3",
    )  # fmt: skip
    line = ["mask", f"--out={_one(rng, ('out', 'out.mkv', 'out.mp4', 'out.png', '.', '', '-x'))}"]
    for _ in range(int(rng.integers(1, 3))):
        kind = _one(
            rng, ("point", "box", "stroke", "seed-mask", "reference", "override", "margin", "smooth", "dilate-px")
        )
        bad = kind in ("seed-mask", "reference", "override")
        value = f"{_one(rng, ('0', '2', '99', '-1'))}={_mutant(rng, kit, folder, _one(rng, IMAGES))}" if bad else ""
        line.append(f"--{kind}={value or _one(rng, points if kind in ('point', 'box', 'stroke') else NUMBERS)}")
    source = _mutant(rng, kit, folder, _one(rng, CLIPS)) if rng.random() < 0.3 else kit / "clip.mkv"
    return [*line, "--", str(source)]


def _lora(rng: Rng, kit: Path, folder: Path) -> list[str]:
    whole, path = (kit / "lora.safetensors").read_bytes(), folder / "bad.safetensors"
    choice = rng.random()
    if choice < 0.6:
        path.write_bytes(hostile_tensors(whole, rng))
    elif choice < 0.9:
        path.write_bytes(mutate(whole, "safetensors", rng))
    else:
        path.write_bytes(pickled(int(rng.integers(6))) if rng.random() < 0.5 else zip_slip())
    lines = [
        ["lora", "show", *(["--json"] if rng.random() < 0.5 else []), path.name],
        ["lora", "convert", f"--format={_one(rng, FORMS)}", path.name, "out.safetensors"],
        ["lora", "export", "--format=musubi", "--dtype=bf16", "--out=out.safetensors", path.name],
        _edit(kit, extra_lora=path.name),
        _edit(kit, transformer=path.name),
    ]  # fmt: skip
    return lines[int(rng.integers(len(lines)))]


def _run(rng: Rng, kit: Path, folder: Path) -> list[str]:
    """Writes a run folder in which some files are damaged or missing."""
    run = folder / "run"
    shutil.copytree(kit / "run", run)
    files = sorted(path for path in run.rglob("*") if path.is_file() and path.name != "log.jsonl")
    named = [path for path in files if path.suffix == ".json"]
    spoilt = set()
    for _ in range(int(rng.integers(1, 3))):
        among = named if rng.random() < 0.5 else files
        spoilt.add(among[int(rng.integers(len(among)))])
    for path in sorted(spoilt):
        _spoil(rng, path)
    lines = [
        ["evaluate", "run"], ["repeat", "run", "--run=again"], ["evaluate", "--json", "run"],
        ["lora", "export", "--format=comfyui", "--out=out.safetensors", "run"], ["repeat", "run", "--out=again.mkv"],
    ]  # fmt: skip
    return lines[int(rng.integers(len(lines)))]


def _model(rng: Rng, kit: Path, folder: Path) -> list[str]:
    """Writes a checkpoint in which one file is damaged or missing."""
    model = folder / "model"
    shutil.copytree(kit / "model", model)
    files = sorted(path for path in model.rglob("*") if path.is_file())
    _spoil(rng, files[int(rng.integers(len(files)))])
    return ["models", "model"] if rng.random() < 0.5 else _edit(kit, model="model")


def _spoil(rng: Rng, path: Path) -> None:
    content = path.read_bytes()
    choice = rng.random()
    if choice < 0.1:
        path.unlink()
    elif choice < 0.2:
        path.unlink()
        path.symlink_to(_one(rng, (path.name, "/dev/zero", "nowhere", "..")))
    elif path.suffix == ".json" and choice < 0.8:
        path.write_bytes(hostile_json(content, rng))
    elif path.suffix == ".safetensors" and choice < 0.7:
        path.write_bytes(hostile_tensors(content, rng))
    else:
        path.write_bytes(mutate(content, path.suffix, rng))


def _plan(rng: Rng, kit: Path, folder: Path) -> list[str]:
    if rng.random() < 0.3:
        path = _mutant(rng, kit, folder, _one(rng, CLIPS))
        return ["plan", f"--first-frame={kit / 'edited.png'}", f"--mask={kit / 'mask.mkv'}", "--", str(path)]
    sizes = ("0x0", "99999x99999", "1x1", "-1x5", "x", "16x100000", "\uff13x\uff13", "64x64x64", "")
    frames = _one(rng, ("0", "-1", "99999999999999999999", "1", "x", "1e3"))
    model = _one(rng, ("nano", "nowhere", str(kit / "lora.safetensors"), "/dev/zero"))
    return ["plan", f"--size={_one(rng, sizes)}", f"--frames={frames}", f"--model={model}"]


def _batch(rng: Rng, kit: Path, folder: Path) -> list[str]:
    """Writes a damaged jobs file. One of its jobs names a missing clip, so that no job begins.

    That job stands first, so that a truncated file has it too, or has no job at all.
    """
    text = f"""seeds = [0, 1]
[defaults]
model = "{kit / "model"}"
steps = 1
first_frame = "{kit / "edited.png"}"
[[jobs]]
name = "b"
source = "nowhere.mkv"
objects = [{{ name = "x", mask = "1,1,9,9" }}]
[[clips]]
name = "a"
source = "{kit / "clip.mkv"}"
mask = "0,0,20,20"
[[looks]]
name = "red"
"""
    wrong = (
        'name = "a/b"', "steps = nan", "x = 1", "[[[", "seeds = 'a'", "mask = 1", "out = '../out.mkv'", "steps = []",
    )  # fmt: skip
    if rng.random() < 0.5:
        lines = text.splitlines()
        lines[int(rng.integers(len(lines)))] = _one(rng, wrong)
        content = "\n".join(lines).encode()
    else:
        content = mutate(text.encode(), ".toml", rng)
    (folder / "jobs.toml").write_bytes(content)
    return ["batch", "jobs.toml"]


_CASES: dict[str, Callable[[Rng, Path, Path], list[str]]] = {
    "source": _source, "source again": _source, "mask": _mask, "first frame": _first, "frames": _frames,
    "special file": _special, "name": _name, "number": _numbers, "text": _texts, "hints": _hints, "lora": _lora,
    "run folder": _run, "checkpoint": _model, "plan": _plan, "batch": _batch,
}  # fmt: skip
