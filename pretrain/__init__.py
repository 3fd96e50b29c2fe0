"""How nano, the embedded model, was made: procedural clips -> VAE -> transformer. See README.md."""
