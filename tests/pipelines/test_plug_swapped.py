"""A scheduler swapped before or after `sunlab.plug`, in a real tiny pipeline of every family: refused, or mentioned."""

import diffusers
import pytest
from tiny_bases import open_pipeline, tiny_base
from tiny_pipelines import file_for, moved
from tiny_pixart import tiny_pixart

import sunlab
from sunlab.adapters import ADAPTERS
from sunlab.backbones.base import BACKBONES
from sunlab.backbones.pretrained import load_base
from sunlab.backbones.sd3.tiny import write_tiny
from sunlab.draws import starting_noise
from sunlab.errors import ConfigError, DataError

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # in diffusers
BINNED = {"height": 32, "width": 32, "use_resolution_binning": False}
WAN = {"frames": 5, "height": 32, "width": 16}
FAMILIES = {  # how to write a tiny base of it, and the arguments of its pipeline's call
    "sd": (lambda folder: tiny_base("sd15", folder), {}),
    "sdxl": (lambda folder: tiny_base("sdxl", folder), {}),
    "pixart": (tiny_pixart, BINNED),
    "pixart, flow": (lambda folder: tiny_pixart(folder, "flow"), BINNED),
    "sana": (BACKBONES.get("sana").factory.write_tiny, BINNED),
    "sd3": (lambda folder: write_tiny(folder, t5=False), {"height": 32, "width": 32}),
    "wan": (BACKBONES.get("wan").factory.write_tiny, {"num_frames": 5, "height": 32, "width": 16}),
}
WITHOUT = {"sd3": {"text_encoder_3": None, "tokenizer_3": None}}
FLOW = ("pixart, flow", "sana", "sd3", "wan")


@pytest.fixture(scope="module", params=FAMILIES)
def family(request):
    return request.param


@pytest.fixture(scope="module")
def made(family, tmp_path_factory):
    """A pipeline, an adapter file for it, and the scheduler that the pipeline was loaded with."""
    folder, name = tmp_path_factory.mktemp("swapped") / "base", family.split(",")[0]
    FAMILIES[family][0](folder)
    base = load_base(folder, backbone={"name": name, **(WAN if name == "wan" else {})}).freeze().backbone
    file = file_for(base, folder.parent / "sun.safetensors", moved(ADAPTERS.build("sun"), base))
    pipe = open_pipeline(folder, **WITHOUT.get(name, {}))
    return pipe, file, pipe.scheduler, base.sample_shape


@pytest.fixture
def pipe(made):
    pipe, _, own, _ = made
    yield pipe
    if hasattr(pipe, "_sunlab"):
        sunlab.unplug(pipe)
    pipe.scheduler = own


def latents(family, pipe, shape):
    noise = starting_noise([3], shape)
    return pipe("a pizza", negative_prompt="green", latents=noise, output_type="latent", **FAMILIES[family][1])[0]


def changed(scheduler, **settings):
    return type(scheduler).from_config(scheduler.config, **settings)


def test_before_plugging(family, made, pipe):
    """What would draw at other times, or from another kind of prediction; the message's remedy is accepted."""
    _, file, own, _ = made
    wrong = [({"num_train_timesteps": 500}, "trained on 1000 training steps, this pipeline's scheduler has 500")]
    if family in FLOW:
        wrong.append(({"shift" if family == "sd3" else "flow_shift": 1.5}, r"trained at the times .*shift of 1.5 gives"))
    if family != "sd3":  # whose scheduler has no setting of it
        wrong.append(({"prediction_type": "sample", "use_flow_sigmas": False}, "this pipeline's scheduler says sample"))
    for settings, message in wrong:
        pipe.scheduler = changed(own, **settings)
        with pytest.raises(DataError, match=message) as error:
            sunlab.plug(pipe, file)
        assert not hasattr(pipe, "_sunlab")
        remedy = str(error.value).split("pipe.scheduler.config, ")[1].removesuffix(")")
        pipe.scheduler = changed(pipe.scheduler, **eval(f"dict({remedy})"))
        sunlab.unplug(sunlab.plug(pipe, file))


def test_another_noise_schedule_is_mentioned(family, made, pipe):
    _, file, own, _ = made
    if family in FLOW:
        pipe.scheduler = diffusers.DDIMScheduler(prediction_type="v_prediction")
        with pytest.raises(DataError, match="trained on a base of flow, this pipeline's scheduler says v_prediction"):
            sunlab.plug(pipe, file)
        return
    pipe.scheduler = changed(own, beta_end=0.05)
    with pytest.warns(UserWarning, match=r"trained on a noise schedule with alpha = .*0\.0.* scheduler has"):
        sunlab.plug(pipe, file)


def test_after_plugging(family, made, pipe):
    """Also diffusers' own scheduler of Euler's method: Wan's pipeline would draw at other times with it, PixArt's cannot."""
    _, file, own, shape = made
    sunlab.plug(pipe, file)
    ours, euler = pipe.scheduler, diffusers.FlowMatchEulerDiscreteScheduler
    spaced = own if family in FLOW else changed(own, timestep_spacing="leading")
    for scheduler in (diffusers.EulerDiscreteScheduler(), euler(shift=3.0), euler(shift=1.5), spaced):
        pipe.scheduler, name = scheduler, type(scheduler).__name__
        with pytest.raises(ConfigError, match=rf"replaced since plugging: {name} .*unplug and plug again"):
            latents(family, pipe, shape)
    wrong = "shift" if family in FLOW else "beta_end"
    pipe.scheduler = changed(ours, **{wrong: 0.5})
    with pytest.raises(ConfigError, match=rf"{type(ours).__name__} with {wrong}=0.5 does not sample"):
        latents(family, pipe, shape)
    pipe.scheduler = changed(ours)
    assert latents(family, pipe, shape).isfinite().all()
