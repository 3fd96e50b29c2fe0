"""Trains nano, the built-in model: procedural clips -> VAE -> transformer -> prior. See README.md."""
