"""A workflow of ComfyUI run as a graph, with stand-ins for ComfyUI's own nodes over the fake of its contract.

Written from the contract: a node class declares INPUT_TYPES, RETURN_TYPES and FUNCTION; a workflow's links connect an
output's slot with an input; the values of the other inputs stand in `widgets_values`, in the order of the declaration.
"""

import zlib

import torch

AFTER_GENERATE = ("fixed", "increment", "decrement", "randomize")


def execute(graph, classes):
    """Run the output nodes and what they need. Returns the results of every node, by id."""
    by_id = {node["id"]: node for node in graph["nodes"]}
    links = {link[0]: link for link in graph["links"]}
    results = {}

    def result(number):
        if number not in results:
            node = by_id[number]
            cls = classes[node["type"]]
            values = cls_inputs(cls, node, linked)
            outputs = getattr(cls(), cls.FUNCTION)(**values)
            assert len(outputs) == len(cls.RETURN_TYPES) or not cls.RETURN_TYPES, node["type"]
            assert [each["type"] for each in node["outputs"]] == list(cls.RETURN_TYPES), node["type"]
            results[number] = outputs
        return results[number]

    def linked(number, target, index, kind):
        _, source, slot, *end = links[number]
        assert end == [target, index, kind]
        assert number in by_id[source]["outputs"][slot]["links"]
        assert classes[by_id[source]["type"]].RETURN_TYPES[slot] == kind
        return result(source)[slot]

    for node in by_id.values():
        if getattr(classes[node["type"]], "OUTPUT_NODE", False):
            result(node["id"])
    return results


def cls_inputs(cls, node, linked):
    """The arguments of a node, from its links and its widgets."""
    stated = cls.INPUT_TYPES()
    sockets = {each["name"]: (index, each) for index, each in enumerate(node["inputs"])}
    widgets, values = iter(node["widgets_values"]), {}
    for name, (kind, *options) in {**stated["required"], **stated.get("optional", {})}.items():
        if name in sockets:
            index, socket = sockets.pop(name)
            assert socket["type"] == kind
            values[name] = linked(socket["link"], node["id"], index, kind)
            continue
        value, limits = next(widgets), options[0] if options else {}
        if isinstance(kind, list):
            assert value in kind, (node["type"], name, value)
        elif kind in ("INT", "FLOAT"):
            assert isinstance(value, int if kind == "INT" else float) and limits["min"] <= value <= limits["max"]
        else:
            assert kind == "STRING" and isinstance(value, str)
        if limits.get("control_after_generate"):
            assert next(widgets) in AFTER_GENERATE
        values[name] = value
    assert not sockets and next(widgets, None) is None, node["type"]
    return values


def core_nodes(patcher, text_width, channels):
    """Stand-ins for the nodes of ComfyUI that the example uses, and the pictures that they save.

    Args:
        patcher: the model that the checkpoint holds.
        text_width: of the encoded prompts.
        channels: of the latents.
    """
    saved = []

    def node(inputs, returns, function, output=False):
        declared = classmethod(lambda cls: {"required": inputs})
        run = staticmethod(function)
        members = {"INPUT_TYPES": declared, "RETURN_TYPES": returns, "FUNCTION": "run", "run": run, "OUTPUT_NODE": output}
        return type("Node", (), members)

    size = ("INT", {"min": 16, "max": 16384})
    names = ["v1-5-pruned-emaonly.safetensors"]
    return {
        "CheckpointLoaderSimple": node(
            {"ckpt_name": (names,)}, ("MODEL", "CLIP", "VAE"), lambda ckpt_name: (patcher, encoder(text_width), decode)
        ),
        "CLIPTextEncode": node(
            {"text": ("STRING", {"multiline": True}), "clip": ("CLIP",)},
            ("CONDITIONING",),
            lambda text, clip: ([[clip(text), {"pooled_output": None}]],),
        ),
        "BasicGuider": node({"model": ("MODEL",), "conditioning": ("CONDITIONING",)}, ("GUIDER",), guider),
        "KSamplerSelect": node({"sampler_name": (["euler"],)}, ("SAMPLER",), lambda sampler_name: (euler,)),
        "RandomNoise": node(
            {"noise_seed": ("INT", {"min": 0, "max": 2**64 - 1, "control_after_generate": True})},
            ("NOISE",),
            lambda noise_seed: (noise_seed,),
        ),
        "EmptyLatentImage": node(
            {"width": size, "height": size, "batch_size": ("INT", {"min": 1, "max": 4096})},
            ("LATENT",),
            lambda width, height, batch_size: ({"samples": torch.zeros(batch_size, channels, height // 128, width // 128)},),
        ),
        "SamplerCustomAdvanced": node(
            {
                "noise": ("NOISE",),
                "guider": ("GUIDER",),
                "sampler": ("SAMPLER",),
                "sigmas": ("SIGMAS",),
                "latent_image": ("LATENT",),
            },
            ("LATENT", "LATENT"),
            sample,
        ),
        "VAEDecode": node({"samples": ("LATENT",), "vae": ("VAE",)}, ("IMAGE",), lambda samples, vae: (vae(samples),)),
        "SaveImage": node(
            {"images": ("IMAGE",), "filename_prefix": ("STRING", {})},
            (),
            lambda images, filename_prefix: saved.append(images) or {"ui": {"images": []}},
            output=True,
        ),
    }, saved


def encoder(width):
    """Text -> tokens (1, L, width), a function of the text."""

    def encode(text):
        generator = torch.Generator().manual_seed(zlib.crc32(text.encode()))
        return torch.randn(1, 2 + len(text.split()), width, generator=generator)

    return encode


def guider(model, conditioning):
    """x, sigma -> the denoised x, one pass."""
    ((tokens, _),) = conditioning

    def denoise(x, sigma):
        passed = model.model.apply(model, x / (sigma**2 + 1) ** 0.5, tokens, sigma=sigma)
        return x - sigma * passed

    return (denoise,)


def euler(denoise, x, sigmas):
    for sigma, after in zip(sigmas[:-1].tolist(), sigmas[1:].tolist(), strict=True):
        x = x + (x - denoise(x, sigma)) / sigma * (after - sigma)
    return x


def sample(noise, guider, sampler, sigmas, latent_image):
    shape = latent_image["samples"].shape
    x = float(sigmas[0]) * torch.randn(shape, generator=torch.Generator().manual_seed(noise))
    drawn = {"samples": sampler(guider, x, sigmas)}
    return drawn, drawn


def decode(latent):
    """Pictures (B, H, W, 3)."""
    return latent["samples"][:, :3].movedim(1, -1)
