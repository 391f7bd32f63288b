"""Stable Diffusion 1.x and 2.x. Start with `unet.py`."""
