"""Encoders: pixels <-> latents, prompts -> embeddings."""
