"""The contract of a logger."""

from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

from sunlab.testing.component import ComponentContract


class LoggerContract(ComponentContract):
    """A logger takes all that a run records, writes below its folder, and keeps no secret of the environment."""

    kind: ClassVar[str] = "loggers"

    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path: Path) -> None:
        self.folder = tmp_path

    def runtime(self) -> tuple[Any, ...]:
        return self.folder, "a_run", False

    def test_it_records_a_run_and_keeps_no_secret(self, monkeypatch: Any) -> None:
        secrets = {"WANDB_API_KEY": "c0ffee" * 7, "HF_TOKEN": "hf_" + "s3cr3t" * 6, "MLFLOW_TRACKING_PASSWORD": "pass" * 8}
        for name, value in secrets.items():
            monkeypatch.setenv(name, value)
        logger = self.build()
        logger.log_config({"seed": 3, "loss": {"name": "msc"}})
        logger.log_metrics({"loss": 0.5}, step=1)
        logger.log_pictures("pictures", torch.rand(2, 3, 8, 8), 1)
        logger.log_rows("table", ["", "NFE"], [["teacher", "50"]], 1)
        logger.finalize("success")
        logger.close()
        files = [path for path in self.folder.rglob("*") if path.is_file()]
        assert files
        written = b"".join(path.read_bytes() for path in files)
        assert not [name for name, value in secrets.items() if value.encode() in written]
