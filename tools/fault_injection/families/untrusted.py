"""Untrusted checkpoints and configurations."""

import os
import pickle
from pathlib import Path
from typing import Any

import torch

from fault_injection.trial import Seen, trial
from fault_injection.world import World
from sunlab.checkpoint import seal

SECRET = "sesame-of-the-trials"


class Touch:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.path}",)


@trial("faults", "20a a pickle as checkpoint, one that names code", "refused with 74, nothing is executed")
def checkpoints(world: World, seen: Seen) -> None:
    folder, config = world.place("untrusted"), world.config("untrusted", world.clean(), **world.several)
    mark = folder / "PWNED"
    evil = {"state_dict": {}, "hyper_parameters": Touch(mark)}
    (folder / "pickle.ckpt").write_bytes(pickle.dumps(evil))
    torch.save(evil, folder / "torch.ckpt")
    for name, value in (
        ("sealed", evil),
        ("instantiator", {"state_dict": {}, "hyper_parameters": {"_instantiator": "os.system", "command": "touch PWNED"}}),
        ("target", {"state_dict": {}, "hyper_parameters": {"_target_": "os.system"}}),
    ):
        with (folder / f"{name}.ckpt").open("x+b") as file:
            torch.save(value, file)
            seal(file)
    for path in sorted(folder.glob("*.ckpt")):
        outcome = world.fit(config, "--resume", str(path))
        seen.check(outcome.codes == [74], f"{path.name}: {outcome.codes}: {outcome.log[-300:]}")
        seen.check(path.name in outcome.log, f"{path.name} is not named: {outcome.log[-300:]}")
    seen.check(not mark.exists(), "it was executed")


@trial("faults", "20b _target_, !!python, ${oc.env:SECRET} in a configuration", "refused with 78, the secret in no file")
def configurations(world: World, seen: Seen) -> None:
    folder, whole = world.place("configurations"), world.config("whole", world.clean())
    mark = folder / "PWNED"
    cases = {
        "target": f"{{loss: {{_target_: os.system, command: 'touch {mark}'}}}}",
        "python": f"run: !!python/object/apply:os.system ['touch {mark}']",
        "environ": "run: {name: '${oc.env:TORTURE_SECRET}'}",
        "decode": "run: {name: '${oc.decode:TORTURE_SECRET}'}",
        "create": "run: {name: '${oc.create:x}'}",
    }
    for name, text in cases.items():
        path = folder / f"{name}.yaml"
        path.write_text(text)
        outcome = world.fit(whole, "--config", str(path), environ={"TORTURE_SECRET": SECRET})
        seen.check(outcome.codes == [78], f"{name}: {outcome.codes}: {outcome.log[-300:]}")
        seen.check(SECRET not in outcome.log, f"{name}: the secret is in the message")
    seen.check(not mark.exists(), "it was executed")
    link = folder / SECRET
    link.symlink_to(world.base(), target_is_directory=True)
    words = ["allow_env=true", "run.name=opted", "model.base=${oc.env:TORTURE_BASE}", "trainer.max_steps=2"]
    opted = world.fit(whole, *words, environ={"TORTURE_BASE": str(link)})
    seen.check(opted.codes == [0] and SECRET not in opted.log, f"opted in: {opted.codes}: {opted.log[-300:]}")
    files = [path for path in world.folder.rglob("*") if path.is_file()]
    told = [path.name for path in files if SECRET.encode() in path.read_bytes()]
    seen.check(not told, f"the secret is in {told}")
