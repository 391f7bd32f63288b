"""A task from outside the tree is configured, trained and exported like sunlab's own."""

import pytest
from safetensors.torch import load_file

from sunlab.cli.main import main
from sunlab.config.load import load_config
from sunlab.errors import ConfigError

PLUGIN = '''
from safetensors.torch import save_file

from sunlab.app.tasks import TASKS, Task, optimization
from sunlab.modules.base import Module


class Bias(Module):
    """Learns the mean of the latents."""

    def __init__(self, base, optimization, start):
        super().__init__()
        self.base, self.optimization = base.freeze(), optimization
        self.bias = __import__("torch").nn.Parameter(__import__("torch").full((1,), start))

    def trainable(self):
        return {"bias": self.bias}

    def training_step(self, samples, index):
        latents = self.base.autoencoder.encode(samples.images)
        loss = (latents.mean() - self.bias).square().mean()
        self.note(len(samples), loss=loss)
        return loss

    def export(self, folder):
        folder.mkdir(parents=True, exist_ok=True)
        save_file({"bias": self.bias.detach()}, folder / "bias.safetensors")
        return [folder / "bias.safetensors"]


@TASKS.register("bias_of_the_test")
class BiasTask(Task):
    """Learn one number."""

    trains_network = False

    def __init__(self, *, start: float = 5.0):
        self.start = start

    def problems(self, config):
        yield from super().problems(config)
        if self.start < 0:
            yield "task.start", f"must not be negative, got {self.start}"

    def build(self, config, base):
        return Bias(base, optimization(config), self.start)
'''


@pytest.fixture(scope="module")
def plugin(tmp_path_factory):
    path = tmp_path_factory.mktemp("plugin") / "tasks_of_the_test.py"
    path.write_text(PLUGIN)
    return str(path)


def test_it_is_trained_and_exported(tiny_config, tmp_path, plugin):
    words = ["task={name: bias_of_the_test, start: 4}", f"run.dir={tmp_path}", "run.name=mine", "trainer.max_steps=2"]
    assert main(["fit", "--config", str(tiny_config), "--plugin", plugin, "optimizer.lr=0.25", *words]) == 0
    learnt = load_file(tmp_path / "mine" / "export" / "bias.safetensors")["bias"]
    assert 4 - 2 * 0.25 - 1e-4 <= learnt.item() < 4  # AdamW's first steps are at most as long as the learning rate


def test_its_own_check_runs_before_anything_is_loaded(plugin):
    with pytest.raises(ConfigError, match=r"override: task\.start: must not be negative, got -1"):
        load_config([], ["task={name: bias_of_the_test, start: -1}"], plugins=[plugin])
    with pytest.raises(ConfigError, match=r"budget\.nfe: .*budget\.seconds"):
        load_config([], ["task=bias_of_the_test", "budget.nfe=3"], plugins=[plugin])
