"""The build step that setup.cfg cannot state: the wheel holds configs/ as `sunlab/configs/`."""

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithConfigs(build_py):
    """Copies the configurations into the built package, where `sunlab.packaged` finds them."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            self.copy_tree("configs", str(Path(self.build_lib, "sunlab", "configs")))


setup(cmdclass={"build_py": BuildWithConfigs})
