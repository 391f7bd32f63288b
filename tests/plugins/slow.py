"""Steps that are long enough to be interrupted in."""

import os
import time

from lightning.pytorch.callbacks import Callback

from sunlab.callbacks.base import CALLBACKS


@CALLBACKS.register("slow_of_the_tests")
class Slow(Callback):
    """Sleeps for SLOW_STEP seconds after each step, where the environment says so."""

    def on_train_batch_end(self, *_):
        time.sleep(float(os.environ.get("SLOW_STEP", "0")))
