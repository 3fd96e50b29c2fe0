"""Sampling latents from noise."""
