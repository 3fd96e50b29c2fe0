"""Edits the clips of a published set, measures the results, and puts them beside the published figures.

    python -m benchmarks.published --form anyv2v|i2vedit|editverse FOLDER --model MODEL --work DIR
        [--page FILE.md] [--encoder clip=FOLDER] [--encoder dino=FOLDER] [--encoder pick=FOLDER] [NAME=VALUE ...]

NAME=VALUE is any setting of an edit, named as in jobs.toml. The same command continues a stopped run: finished edits
and figures are not made again. See docs/published.md.
"""

from __future__ import annotations

import argparse
import sys
import tomllib
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress, TimeRemainingColumn

from benchmarks.keeping import parse_settings
from benchmarks.published.anyv2v import read_anyv2v
from benchmarks.published.cases import Found, PublishedCase, Reader
from benchmarks.published.editverse import read_editverse
from benchmarks.published.encoders import Encoder, find_encoder
from benchmarks.published.extras import add_extras
from benchmarks.published.figures import published_sets
from benchmarks.published.i2vedit import read_i2vedit
from benchmarks.published.jobs import BATCH, write_jobs
from benchmarks.published.measures import Measurer
from benchmarks.published.page import Results, section
from benchmarks.tables import put_section
from loraedit.batch import run_batch
from loraedit.batch.board import Board
from loraedit.cli.batch import BatchDisplay
from loraedit.cli.progress import quiet_libraries, show_progress
from loraedit.errors import InputError, LoraEditError
from loraedit.job.model import download_weights, find_card, local_weights
from loraedit.settings import EditSettings, make_settings
from loraedit.storage.files import read_json, write_text

__all__ = ["FORMS", "argument_parser", "main"]

FORMS: dict[str, Reader] = {"anyv2v": read_anyv2v, "i2vedit": read_i2vedit, "editverse": read_editverse}


def read_cases(options: argparse.Namespace) -> Found:
    """Returns the cases that were asked for.

    Raises:
        InputError: the folder or the extras are not as they should be, or no case is left.
    """
    found = FORMS[options.form](options.folder)
    cases = found.cases if options.extras is None else add_extras(found.cases, options.extras)
    chosen = tuple(case for case in cases if options.only is None or fnmatch(case.name, options.only))
    if not chosen:
        names = ", ".join(case.name for case in cases)
        raise InputError(f"--only '{options.only}' fits no case. The cases are {names}.")
    few = (f"{len(chosen)} of {len(cases)} cases were chosen by --only.",) if len(chosen) < len(cases) else ()
    return Found(chosen, (*found.left_out, *few))


def read_settings(options: argparse.Namespace) -> dict[str, Any]:
    """Returns the settings of all edits: those of the file, then those of the command line.

    Raises:
        InputError: one of them cannot be read.
    """
    for text in options.settings:
        if "=" not in text:
            raise InputError(f"'{text}' is not NAME=VALUE.")
    settings: dict[str, Any] = {}
    if options.options is not None:
        try:
            settings = tomllib.loads(options.options.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise InputError(f"'{options.options}' cannot be read as TOML: {error}.") from error
    return {**settings, "model": options.model, **parse_settings(options.settings)}


def read_deqa(path: Path | None, cases: Sequence[PublishedCase]) -> dict[str, float]:
    """Returns the DeQA scores by case; none without a file.

    Raises:
        InputError: the file is not an object of numbers, or names an unknown case.
    """
    if path is None:
        return {}
    try:
        scores = {str(name): float(value) for name, value in read_json(path).items()}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise InputError(f"'{path}' is not a JSON object of scores by case ({error}).") from error
    unknown = sorted(set(scores) - {case.name for case in cases})
    if unknown:
        raise InputError(f"'{path}' has a score for '{unknown[0]}', which is no case.")
    return scores


def fetch_model(settings: dict[str, Any], console: Console) -> None:
    """Downloads what is missing of the model.

    Raises:
        InputError: a setting is wrong.
        ModelError: the model cannot be fetched.
    """
    given = {name: value for name, value in settings.items() if name in EditSettings.model_fields}
    wanted = make_settings({**given, "download": True})
    card = find_card(wanted)
    if local_weights(wanted, card) is None:
        with show_progress(console) as progress:
            download_weights(wanted, card, progress)


def make_edits(jobs: Path, options: argparse.Namespace, console: Console) -> Board:
    """Runs the edits that are not done, and shows the time left."""
    table = BatchDisplay(console)
    try:
        with show_progress(console) as progress:
            check = progress.steps("check")
            return run_batch(jobs, options.ray, options.gpus_per_job, on_check=check, on_news=table).board
    finally:
        table.close()


def measure(
    cases: Sequence[PublishedCase], board: Board, measurer: Measurer, work: Path, console: Console
) -> dict[str, dict[str, float]]:
    """Returns the figures of every finished edit, and shows the time left."""
    done = [case for case in cases if board.lines[case.name].state == "done"]
    figures = {}
    columns = (*Progress.get_default_columns()[:-1], TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        for case in progress.track(done, description="measure"):
            run, key = work / BATCH / "jobs" / case.name / "run", board.lines[case.name].record["key"]
            figures[case.name] = measurer(run, key, case.prompt)
    return figures


def carry_out(options: argparse.Namespace, console: Console) -> Results:
    """Reads, edits and measures; everything given is checked first.

    Raises:
        LoraEditError: something given cannot be used.
    """
    found, settings = read_cases(options), read_settings(options)
    encoders: list[Encoder] = [find_encoder(text, options.download) for text in options.encoder]
    if len({encoder.kind for encoder in encoders}) < len(encoders):
        raise InputError("--encoder gives two encoders of one kind. Give one of each, so that figures do not mix.")
    deqa = read_deqa(options.deqa, found.cases)
    if options.download:
        fetch_model(settings, console)
    jobs, notes = write_jobs(found.cases, settings, options.work, options.frames)
    board = make_edits(jobs, options, console)
    measured = measure(found.cases, board, Measurer(encoders, options.work / "measures"), options.work, console)
    figures = {name: {**each, **({"deqa": deqa[name]} if name in deqa else {})} for name, each in measured.items()}
    frames = {} if options.frames is None else {"frames": options.frames}
    return Results(
        options.form, options.label or f"loraedit, {settings['model']}", {**settings, **frames}, figures,
        {line.name: line.why for line in board.failures()}, encoders, str(options.work / BATCH / "index.html"),
        (*found.left_out, *notes),
    )  # fmt: skip


def argument_parser() -> argparse.ArgumentParser:
    """Returns the parser of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="the published set, as its authors arrange it")
    parser.add_argument("settings", nargs="*", metavar="NAME=VALUE", help="settings of all edits")
    parser.add_argument("--form", required=True, choices=list(FORMS), help="the form of the folder")
    parser.add_argument("--model", default="nano", help="nano, a checkpoint folder, or a Hub id")
    parser.add_argument("--work", type=Path, required=True, help="the folder for edits and figures")
    parser.add_argument("--page", type=Path, help="put the table into this page, between its markers")
    parser.add_argument("--options", type=Path, metavar="TOML", help="more settings of all edits")
    parser.add_argument("--extras", type=Path, metavar="DIR", help="your masks, references and prompts, by case")
    parser.add_argument("--only", metavar="PATTERN", help="only the cases whose names fit, such as 'item1-*'")
    parser.add_argument("--frames", type=int, metavar="N", help="sample longer clips evenly at N frames")
    parser.add_argument(
        "--encoder", action="append", default=[], metavar="KIND=MODEL",
        help="clip, dino or pick: a folder or a Hub id; may be repeated",
    )  # fmt: skip
    parser.add_argument("--deqa", type=Path, metavar="JSON", help="DeQA scores by case, from its authors' program")
    parser.add_argument("--label", help="the name of our row  [default: the model]")
    parser.add_argument("--download", action="store_true", help="fetch the model and the encoders from the Hub")
    parser.add_argument("--ray", metavar="ADDRESS", help="run the edits on a Ray cluster, as loraedit batch does")
    parser.add_argument("--gpus-per-job", type=float, default=1.0, help="the share of a GPU for each edit; 0: CPU")
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    options = argument_parser().parse_intermixed_args(arguments)
    console = Console(stderr=True)
    quiet_libraries("diffusers", "transformers")
    try:
        results = carry_out(options, console)
    except LoraEditError as error:
        sys.exit(f"published: {error}")
    except KeyboardInterrupt:
        sys.exit("published: stopped. Run the same command again to continue.")
    text = section(results, published_sets(options.form))
    write_text(options.work / f"{options.form}.md", text + "\n")
    if options.page is not None:
        put_section(options.page, f"published_{options.form}", text)
    print(text)
    if results.failed:
        sys.exit(1)


if __name__ == "__main__":
    main()
