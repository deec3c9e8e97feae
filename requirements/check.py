"""Fail early, and say what to do, when the environment cannot run the engine."""

import sys

try:
    import torch
except ImportError as error:
    sys.exit(
        f"torch cannot be imported ({error}). The lock leaves CUDA out, so pip must find the CPU build of torch: "
        "set PIP_EXTRA_INDEX_URL to PyTorch's index of CPU wheels, remove .venv, and run make again."
    )
if torch.version.cuda is not None:
    sys.exit(
        f"torch {torch.__version__} is a CUDA build. Set PIP_EXTRA_INDEX_URL to PyTorch's index of CPU wheels, remove "
        ".venv, and run make again; or, on a machine with a GPU, install with: pip install -e '.[gpu,dev]'"
    )
