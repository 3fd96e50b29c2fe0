"""The samples of the method, and flow matching on latents."""
