"""The contract of a callback, as far as nothing is trained."""

import inspect
from io import BytesIO
from typing import Any, ClassVar

import torch
from lightning.pytorch.callbacks import Callback

from sunlab.testing.component import ComponentContract


class CallbackContract(ComponentContract):
    """A callback's hooks are Lightning's, and its state goes through a checkpoint of tensors and plain values."""

    kind: ClassVar[str] = "callbacks"

    def hooks(self) -> dict[str, Any]:
        """The hooks that the callback has of its own, by name."""
        own = type(self.build())
        return {name: getattr(own, name) for name in dir(own) if getattr(own, name) is not getattr(Callback, name, None)}

    def test_every_hook_is_one_that_lightning_calls(self) -> None:
        strange = [name for name in self.hooks() if name.startswith("on_") and not hasattr(Callback, name)]
        assert not strange, f"Lightning has no such hook: {', '.join(strange)}"

    def test_every_hook_takes_what_lightning_gives(self) -> None:
        for name, hook in self.hooks().items():
            if hasattr(Callback, name) and not name.startswith("_") and inspect.isfunction(hook):
                given = [p for p in inspect.signature(getattr(Callback, name)).parameters.values() if p.name != "self"]
                inspect.signature(hook).bind(self, *(p.name for p in given))

    def test_its_state_survives_a_checkpoint(self) -> None:
        state, file = self.build().state_dict(), BytesIO()
        torch.save(state, file)
        file.seek(0)
        loaded = torch.load(file, weights_only=True)
        again = self.build()
        if state:
            again.load_state_dict(loaded)
        assert str(again.state_dict()) == str(state)
