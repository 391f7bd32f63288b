"""Training tasks of the lab's models."""

from sunlab.app.tasks import TASKS, Task, optimization
from sunlab.backbones.base import BaseModel
from sunlab.config.schema import Config
from sunlab.lab.text_encoder import TextEncoderModule
from sunlab.modules.base import Module


@TASKS.register("text_encoder")
class TextEncoderTask(Task):
    """Train the text encoder of the pretrained model, before any network is trained on it."""

    trains_network = False

    def build(self, config: Config, base: BaseModel) -> Module:
        return TextEncoderModule(base, optimization=optimization(config))
