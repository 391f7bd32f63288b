"""The metadata of a single file in Stable Diffusion's original layout, from its shapes and its ModelSpec header."""

from typing import Any

from sunlab.backbones.files import Files

UNET = "model.diffusion_model."
FIRST = UNET + "input_blocks.0.0.weight"
CROSS = UNET + "input_blocks.{}.1.transformer_blocks.0.attn2.to_k.weight"
ARCHITECTURES = {"stable-diffusion-v2-768-v": "v_prediction", "stable-diffusion-v2-512": "epsilon"}  # ModelSpec's names


def unet_mismatch(files: Files) -> str | None:
    """Why the file holds no text-to-image U-Net in the original layout; None if it does."""
    first = files.shapes.get(FIRST)
    if not first:
        return f"no U-Net in Stable Diffusion's original layout ({FIRST}); is it a LoRA or an adapter?"
    if first[1] != 4:
        return f"its U-Net takes {first[1]} channels (inpainting, depth, ...); a text-to-image base takes 4"
    return None


def text_width(files: Files, block: int) -> int:
    """Width of the tokens in the cross-attention of a down block; 0 without one."""
    return files.shapes.get(CROSS.format(block), (0,))[-1]


def stated_prediction(files: Files) -> str | None:
    """The prediction type that a file states: an empty tensor `v_pred`, as model sites mark fine-tunes, or ModelSpec."""
    if "v_pred" in files.shapes:
        return "v_prediction"
    said = {"epsilon": "epsilon", "v": "v_prediction"}.get(files.metadata.get("modelspec.prediction_type", ""))
    return said or ARCHITECTURES.get(files.metadata.get("modelspec.architecture", "").split("/")[0])


def stated_scheduler(files: Files) -> dict[str, Any]:
    """What a file states of its scheduler, over the family's configuration."""
    prediction = stated_prediction(files)
    said: dict[str, Any] = {} if prediction is None else {"prediction_type": prediction}
    if "ztsnr" in files.shapes:  # an empty tensor that marks a zero terminal signal-to-noise ratio
        said["rescale_betas_zero_snr"] = True
    return said
