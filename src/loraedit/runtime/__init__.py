"""Devices, memory, and edits on several GPUs."""
