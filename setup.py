"""What pyproject.toml has no words for: the wheel carries the folders beside the package, inside it."""

from setuptools import find_packages, setup

CARRIED = {"cfg": ["**/*.yaml"], "assets": ["**/*"], "get_data": ["*.yaml"]}  # get_data's modules come with it

setup(
    packages=[*find_packages(include=["cmbml*"]), *(f"cmbml._data.{folder}" for folder in CARRIED)],
    package_dir={f"cmbml._data.{folder}": folder for folder in CARRIED},
    package_data={"cmbml": ["py.typed"], **{f"cmbml._data.{folder}": files for folder, files in CARRIED.items()}},
    exclude_package_data={"cmbml._data.assets": ["*.png"]},
)
