"""Metadata, dependencies and the mapping of configs/ into the package."""

import setuptools

# configs/ is next to the package in a checkout; it is installed inside the package.
PACKAGE_DIR = {
    "layered_segmentation": "layered_segmentation",
    "layered_segmentation.configs": "configs",
}
PACKAGES = [
    *setuptools.find_packages(include=["layered_segmentation", "layered_segmentation.*"]),
    "layered_segmentation.configs",
]
DATASETS = [
    "tensorflow-datasets>=4.9.10,<5",
    "importlib_resources>=5,<8",  # tensorflow-datasets imports it and does not say so
    "lmdb>=1.7,<4",  # LSUN's archives are LMDBs
]


ONNX = ["tf2onnx>=1.17,<2", "onnx>=1.18,<2", "onnxruntime>=1.22,<2"]


def _read(path: str) -> str:
    with open(path, encoding="utf-8") as file:
        return file.read()


setuptools.setup(
    name="layered-segmentation",
    version="0.1.0",
    description="Learns from unlabelled photos of one kind of thing to cut that thing out.",
    long_description=_read("README.md"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Intended Audience :: Developers",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3 :: Only",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Topic :: Scientific/Engineering :: Image Recognition",
        "Typing :: Typed",
    ],
    python_requires=">=3.11,<3.13",
    package_dir=PACKAGE_DIR,
    packages=PACKAGES,
    package_data={
        "layered_segmentation": ["py.typed", "presets/*/*", "presets/*/*/*"],
        "layered_segmentation.configs": ["*.yaml", "*/*.yaml"],
        "layered_segmentation.data.prepare": ["checksums.tsv", "cub_classes.txt"],
        "layered_segmentation.evaluation": ["templates/*.html"],
    },
    install_requires=[
        "tensorflow>=2.21,<2.22",
        "keras>=3.15.1,<3.16",
        "keras-hub>=0.32,<0.33",  # brings tensorflow-text, which must match tensorflow
        "numpy>=2.0,<3",
        "scipy>=1.14,<2",
        "absl-py>=2.3,<3",
        "filelock>=3.20.3,<5",
        "omegaconf>=2.3,<3",
        "pillow>=12.3,<14",
        "opencv-contrib-python-headless>=4.12,<6",  # contrib: ximgproc's guided filter
        "matplotlib>=3.10,<4",
        "jinja2>=3.1.6,<4",
        "tqdm>=4.66.3,<5",
        "tensorboard>=2.20,<2.22",
        "ai-edge-litert>=2.1,<3",
        "tensorflow-serving-api>=2.21,<2.22",  # messages only: warm-up requests, the client
        "grpcio>=1.70,<2",
        "tenacity>=9,<10",
    ],
    extras_require={
        "test": [
            "pytest>=8.4,<10",
            "pytest-xdist>=3.6,<4",
            "hypothesis>=6.130,<7",
            "setuptools>=78.1.1",  # a test builds the wheel
            "wheel>=0.43",
            "ruff>=0.14,<0.18",
            "mypy>=1.18,<3",
            "pre-commit>=4,<5",
            "jax>=0.7,<0.11",
            "scikit-image>=0.25,<0.27",
            "grain>=0.2.16,<0.3",  # imported by the test case of KerasHub
            "openvino>=2026.0,<2027",  # a second runtime for what is exported
            "tree-sitter>=0.25,<0.27",  # parses the Swift code
            "tree-sitter-swift>=0.7.1,<0.8",
            *ONNX,
            *DATASETS,
            "dill>=0.4,<0.5",  # tfds.testing imports it
            "nbclient>=0.10,<0.12",  # runs the notebook
            "ipykernel>=6.29,<8",
        ],
        "torch": ["torch>=2.6,<3"],  # only to read the authors' checkpoints
        "tfds": DATASETS,
        "onnx": ONNX,  # layerseg export --format=onnx
        "heic": ["pillow-heif>=1.0,<2"],  # photos of phones; Pillow itself reads AVIF
        "cuda": ["tensorflow[and-cuda]>=2.21,<2.22"],  # NVIDIA GPUs on Linux
        "docs": [
            "mkdocs>=1.6,<2",
            "mkdocs-material>=9.7,<10",
            "mkdocstrings[python]>=1,<2",
            "latex2mathml>=3.78,<4",
            "ruff>=0.14,<0.18",  # wraps the signatures
        ],
        "beam": ["apache-beam[tfrecord]>=2.77,<3"],
        "dev": ["build>=1.2,<2"],
    },
    entry_points={"console_scripts": ["layerseg=layered_segmentation.cli.main:main"]},
    zip_safe=False,
)
