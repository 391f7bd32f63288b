"""A CLIP model small enough for a test."""

import pytest


@pytest.fixture(scope="session")
def tiny_clip(tmp_path_factory, tiny_base_folder):
    """A CLIPModel of random weights with the lab's tokenizer."""
    from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

    folder = tmp_path_factory.mktemp("clip")
    tower = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    tower["projection_dim"] = 5
    tokenizer = CLIPTokenizer.from_pretrained(tiny_base_folder / "tokenizer")
    words = {"vocab_size": len(tokenizer), "bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    vision = {**tower, "image_size": 16, "patch_size": 8}
    CLIPModel(CLIPConfig(text_config={**tower, **words}, vision_config=vision, projection_dim=5)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
