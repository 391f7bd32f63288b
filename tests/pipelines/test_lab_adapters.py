"""The shipped adapters, in plain diffusers: each draws in 4 passes what a caption asks for, and obeys a negative prompt."""

import pytest

import sunlab
from sunlab.backbones.locate import locate
from sunlab.draws import starting_noise
from sunlab.lab import ASSETS
from sunlab.lab.classifier import judge, load_classifier

pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),  # in diffusers
    pytest.mark.filterwarnings("ignore:Expected types for text_encoder"),  # emoji-dit's is a CLIPTextModel
]
PIXART = {
    "use_resolution_binning": False, "clean_caption": False, "max_sequence_length": 77, "height": 64, "width": 64,
}  # fmt: skip

ADAPTERS = sorted((ASSETS / "emoji").glob("sun*.safetensors"))
CAPTIONS = ["a large tiger face on a black background", "a duck on an orange background"]
OPEN = ["an owl", "a cactus", "a croissant", "a large cat face"] * 2  # the background is left open


def test_there_are_some():
    named = {"sun_msc", "sun_rollout", "sun_rollout_offset", "sun_lora_msc", "sun_lora_long"}
    named |= {"sun_msc_160", "sun_lora_msc_160", "sun_msc_dit"}
    assert named <= {path.stem for path in ADAPTERS}


@pytest.mark.parametrize("path", ADAPTERS, ids=lambda path: path.stem)
def test_it_draws_and_obeys(path):
    from diffusers import DiffusionPipeline

    base = next((base for base in ("emoji-dit", "emoji-160") if path.stem.endswith(base.removeprefix("emoji-"))), "emoji-sd")
    pipeline = DiffusionPipeline.from_pretrained(locate(base), local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    options = {"num_inference_steps": 4, "output_type": "pt", **(PIXART if base == "emoji-dit" else {})}
    sunlab.plug(pipeline, path)
    judged = load_classifier()

    def drawn(prompts, negatives):
        noise = starting_noise(list(range(len(prompts))), (4, 16, 16))
        return judge(judged, pipeline(prompts, negative_prompt=negatives, latents=noise, **options).images)

    tiger, duck = drawn(CAPTIONS, ["", ""])
    assert (tiger.emoji, tiger.background, tiger.size) == ("tiger face", "black", "large")
    assert (duck.emoji, duck.background) == ("duck", "orange")
    shown = [picture.background for picture in drawn(OPEN, [""] * len(OPEN))]
    again = drawn(OPEN, [f"{background} background" for background in shown])
    kept = sum(after.background == background for after, background in zip(again, shown, strict=True))
    assert kept <= len(OPEN) // 4
