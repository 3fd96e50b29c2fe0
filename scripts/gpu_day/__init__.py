"""Measures training, sampling and encoding at true size with random weights on one GPU, and compares with the plans."""
