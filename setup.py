"""Two packages in one distribution: ``fastait_kernels`` needs torch and numpy alone; the trainer's needs are extras."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
VERSION = re.search(r'__version__ = "([^"]+)"', (HERE / "fastait" / "runtime" / "version.py").read_text())[1]

TRAIN = [
    "cyclopts>=5",
    "jinja2>=3.1.4",  # which torch has too
    "matplotlib>=3.8",
    "packaging>=23.2",
    "pillow>=10.4",
    "rich>=13.6",
    "safetensors>=0.5",
    "scikit-learn>=1.4",
    "torchvision>=0.21",
]
DALI = ["nvidia-dali-cuda130>=2.4"]  # for torch's builds for CUDA 13: what is installed by default from torch 2.11 on
DALI_CUDA12 = ["nvidia-dali-cuda120>=2.4"]
PARQUET = ["pyarrow>=17"]
TENSORBOARD = ["tensorboard>=2.18"]
TIMM = ["timm>=1.0.22"]
DOCS = ["furo>=2025.12", "myst-parser>=5", "sphinx>=9"]
PEERS = ["foolbox>=3.3.4", "pyautoattack>=0.2", "torchattacks>=3.5.1"]  # other people's attacks, to be compared with
TEST = [
    *TRAIN,
    *PARQUET,
    *TENSORBOARD,
    *TIMM,
    *PEERS,
    "hypothesis>=6.100",
    "optuna>=4",  # an example calls it
    "playwright>=1.49",  # drives a Chromium that the system has, if it has one
    "pytest>=8",
    "pytest-benchmark>=5",
    "pytest-xdist>=3.8",
    "sybil>=10",  # runs the manual's Python blocks
]

setup(
    name="fastait",
    version=VERSION,
    description="Fast adversarial interpolation training of robust image classifiers",
    long_description=(HERE / "README.md").read_text(),
    long_description_content_type="text/markdown",
    python_requires=">=3.11",
    classifiers=[
        "Operating System :: POSIX :: Linux",
        *(f"Programming Language :: Python :: 3.{minor}" for minor in range(11, 15)),
    ],
    packages=find_packages(include=["fastait*"]) + find_packages("kernels"),
    package_dir={"fastait": "fastait", "fastait_kernels": "kernels/fastait_kernels"},
    package_data={"fastait": ["py.typed", "report/templates/*"], "fastait_kernels": ["py.typed"]},
    install_requires=["torch>=2.6", "numpy>=1.26"],
    extras_require={
        "train": TRAIN,
        "dali": DALI,
        "dali-cuda12": DALI_CUDA12,
        "parquet": PARQUET,
        "tensorboard": TENSORBOARD,
        "timm": TIMM,
        "docs": [*TRAIN, *DOCS],
        "test": TEST,
        "dev": [*TEST, "build>=1.2", "import-linter>=2.17", "mypy>=1.15", "ruff>=0.11"],
    },
    entry_points={"console_scripts": ["fastait = fastait.__main__:end"]},
)
