"""SUN adapters of sunlab in ComfyUI (SD 1.x, SDXL): load an adapter, apply it to a model, and its sigmas.

Open `loader.py` first, which holds the nodes, then `patches.py`, which computes SUN's branches.

SPDX-License-Identifier: Apache-2.0
"""

from .loader import ApplySUN, LoadSUNAdapter, SUNSigmas

NODE_CLASS_MAPPINGS = {"SunlabLoadAdapter": LoadSUNAdapter, "SunlabApplySUN": ApplySUN, "SunlabSigmas": SUNSigmas}
NODE_DISPLAY_NAME_MAPPINGS = {
    "SunlabLoadAdapter": "Load SUN adapter",
    "SunlabApplySUN": "Apply SUN",
    "SunlabSigmas": "SUN sigmas",
}

__all__ = ["NODE_CLASS_MAPPINGS", "NODE_DISPLAY_NAME_MAPPINGS"]
