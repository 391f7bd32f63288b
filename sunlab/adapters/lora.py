"""Low-rank adaptation of the U-Net's weights, through peft (arXiv 2106.09685)."""

from typing import Any

from torch import Tensor, nn

from sunlab.adapters.base import ADAPTERS, Adapter
from sunlab.errors import ConfigError
from sunlab.types import Conditioning

NAME = "sunlab"
ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
LCM = (*ATTENTION, "proj_in", "proj_out", "ff.net.0.proj", "ff.net.2", "conv1", "conv2", "conv_shortcut",
       "downsamplers.0.conv", "upsamplers.0.conv", "time_emb_proj")  # fmt: skip


@ADAPTERS.register("lora")
class LoRA(Adapter):
    """LoRA on the U-Net's attention, feed-forward and convolution layers, as LCM-LoRA places it; blind to negatives.

    Args:
        rank: r.
        alpha: the update is scaled by alpha / r; null: alpha = r.
        targets: ends of the names of the layers that get one.
    """

    def __init__(self, *, rank: int = 64, alpha: float | None = None, targets: tuple[str, ...] = LCM):
        super().__init__()
        self.spec = {"name": "lora", "rank": rank, "alpha": alpha, "targets": list(targets)}
        self.rank, self.alpha, self.targets = rank, alpha, targets
        self._unet: Any = None

    def attach(self, unet: nn.Module) -> None:
        from peft import LoraConfig

        if NAME in getattr(unet, "peft_config", {}):
            raise ConfigError("another LoRA of sunlab's is plugged into this U-Net; detach it first")
        config = LoraConfig(r=self.rank, lora_alpha=self.alpha or self.rank, target_modules=list(self.targets))
        unet.add_adapter(config, adapter_name=NAME)
        object.__setattr__(self, "_unet", unet)

    def detach(self) -> None:
        if self._unet is not None:
            self._unet.delete_adapters(NAME)
            if not getattr(self._unet, "peft_config", {}):
                self._unet.unload_lora()  # no other LoRA left: take peft's wrappers out as well
            object.__setattr__(self, "_unet", None)

    def switch(self, on: bool) -> None:
        from peft.tuners.tuners_utils import BaseTunerLayer

        for module in self._unet.modules():
            if isinstance(module, BaseTunerLayer) and module.disable_adapters is on:
                module._disable_adapters = not on  # enable_adapters() would also change requires_grad

    def state(self, positive: Conditioning, negative: Conditioning, guidance: Tensor) -> Any:
        return None

    def tensors(self) -> dict[str, Tensor]:
        marks = (f".lora_A.{NAME}.", f".lora_B.{NAME}.")
        return {n.replace(f".{NAME}.", "."): p for n, p in self._unet.named_parameters() if any(m in n for m in marks)}
