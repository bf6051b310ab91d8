"""Installation of the package by pip and by colcon (ament_python)."""

from pathlib import Path

from setuptools import find_packages, setup

PACKAGE = 'kd_perception'


def shared(folder: str) -> list[tuple[str, list[str]]]:
    """Return data_files entries for every file below ``folder``."""
    here = Path(folder)
    folders = [here, *(p for p in here.rglob('*') if p.is_dir())]
    return [(f'share/{PACKAGE}/{d}', files) for d in folders
            if (files := sorted(str(f) for f in d.iterdir() if f.is_file()))]


RUNTIME = ['onnxruntime>=1.17', 'openvino>=2024.4']
TRAIN = ['torch>=2.6', 'torchvision>=0.21', 'timm>=1.0', 'segmentation-models-pytorch>=0.4',
         'accelerate>=1.0', 'onnx>=1.16', 'onnxscript>=0.2', 'tensorboard>=2.15']
TENSORRT = ['tensorrt>=10', 'cuda-python>=12.6.1', 'onnx>=1.16', 'nvidia-ml-py>=12']
COMPRESS = ['torch-pruning>=1.6']
SIMULATION = ['moderngl>=5.11']
SEARCH = ['optuna>=4.0']
HUGGINGFACE = ['transformers>=4.45']

setup(
    name=PACKAGE,
    version='0.1.0',
    description='Distil, compress, run and compare camera perception networks on ROS 2.',
    license='Apache-2.0',
    packages=find_packages(include=[PACKAGE, f'{PACKAGE}.*']),
    # Folder by folder: the setuptools of Ubuntu 22.04 (59.6) knows no '**'.
    package_data={PACKAGE: ['py.typed'],
                  f'{PACKAGE}.simulation': ['shaders/*.glsl'],
                  f'{PACKAGE}.evaluation.reports': ['templates/*']},
    python_requires='>=3.10',
    data_files=[
        ('share/ament_index/resource_index/packages', [f'resource/{PACKAGE}']),
        (f'share/{PACKAGE}', ['package.xml']),
        *shared('launch'), *shared('config'), *shared('models'),
    ],
    install_requires=[
        'numpy>=1.26,<3', 'opencv-python-headless>=4.8,<5', 'PyYAML>=6', 'safetensors>=0.4',
        'rosbags>=0.10.6', 'mcap>=1.2', 'zstandard>=0.21', 'lz4>=4',
        'rich>=13', 'psutil>=5.9', 'matplotlib>=3.6',
    ],
    extras_require={
        'runtime': RUNTIME,
        'train': TRAIN,
        'tensorrt': TENSORRT,
        'compress': COMPRESS,
        'sim': SIMULATION,
        'search': SEARCH,
        'hf': HUGGINGFACE,
        # colcon test runs pytest for packages whose extra "test" names it.
        'test': ['pytest', 'pytest-cov', 'pytest-timeout', 'pytest-xdist', 'hypothesis'],
        'carla': ['carla==0.9.16; python_version < "3.13"'],
        'dev': ['ruff', 'mypy', 'import-linter', 'types-PyYAML', 'mcap-ros2-support>=0.5'],
        'all': [*RUNTIME, *TRAIN, *SEARCH, *COMPRESS, *SIMULATION],
    },
    entry_points={'console_scripts': [
        f'{PACKAGE} = {PACKAGE}.cli.main:main',
        f'perception = {PACKAGE}.nodes.perception.node:main',
        f'camera = {PACKAGE}.nodes.camera.node:main',
        f'monitor = {PACKAGE}.nodes.monitor.node:main',
        f'shadow = {PACKAGE}.nodes.shadow.node:main',
    ]},
    zip_safe=False,
    maintainer='kd_perception maintainers',
    maintainer_email='maintainers@kd-perception.example',
)
