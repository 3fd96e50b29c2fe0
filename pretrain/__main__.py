"""Trains nano from scratch: VAE, transformer, assembly, prior (``python -m pretrain``). Every stage resumes."""

from __future__ import annotations

import argparse
from pathlib import Path

from diffusers import AutoencoderKLWan

from loraedit.storage.files import write_json
from pretrain.assemble import NANO, assemble
from pretrain.footage import measure
from pretrain.prior import PRIOR_CLIPS, PRIOR_SIZE, PRIOR_TRAINING, train_prior
from pretrain.transformer import train as train_transformer
from pretrain.vae import DECODER_STEPS, POLISH_STEPS, STEPS
from pretrain.vae import train as train_vae


def argument_parser() -> argparse.ArgumentParser:
    """Returns the parser of the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path(".cache/pretrain"))
    parser.add_argument("--vae-steps", type=int, default=STEPS)
    parser.add_argument("--decoder-steps", type=int, default=DECODER_STEPS)
    parser.add_argument("--polish-steps", type=int, default=POLISH_STEPS)
    parser.add_argument("--transformer-steps", type=int, default=6000)
    return parser


def main() -> None:
    options = argument_parser().parse_args()
    train_vae(options.work, options.vae_steps, options.decoder_steps, options.polish_steps, peak=1e-3)
    write_json(options.work / "footage.json", measure(AutoencoderKLWan.from_pretrained(options.work / "vae")))
    train_transformer(options.work, options.transformer_steps, peak=1.5e-3, until=options.transformer_steps)
    assemble(options.work, NANO)
    train_prior(NANO, options.work / "prior", PRIOR_CLIPS, PRIOR_SIZE, PRIOR_TRAINING)


if __name__ == "__main__":
    main()
