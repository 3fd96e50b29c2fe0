"""Benchmarks video edits whose true result is known: source and truth are renderings of the same scene."""
