"""What libraries say that helps nobody here, left out of the terminal; `--debug` brings it back."""

import logging
import warnings

TALKATIVE = ("lightning.pytorch", "lightning.fabric", "lightning_utilities")
KNOWN = (
    ".*treespec.*is deprecated.*",  # Lightning 2.6 with torch 2.13
    ".*module\\(s\\) in eval mode at the start of training.*",  # the frozen teacher is meant to be
    ".*does not have many workers.*",  # the lab's data are read in the training process
    ".*weights_only.*was not set.*",
    ".*Checkpoint directory .* exists and is not empty.*",
    ".*The dirpath has changed.*",
    ".*`srun` command is available on your system but is not used.*",  # said wherever Slurm is installed
)


def quiet() -> None:
    """Silence them, for the process."""
    for name in TALKATIVE:
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in KNOWN:
        warnings.filterwarnings("ignore", message=message)
