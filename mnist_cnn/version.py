"""This package's version, and the Python it needs.

Python 3.6 and newer can read this file.
"""

import shlex
import sys
from pathlib import Path

__version__ = "0.1.0"
OLDEST_PYTHON, NEWEST_PYTHON = (3, 11), (3, 13)
"""TensorFlow has no wheels for a newer one."""
PYTHON_NEEDED = "mnist_cnn needs Python 3.11, 3.12 or 3.13"


def installation_hint(extra: str = "") -> str:
    """Return the command that installs this package.

    It installs all that the package needs, and an extra.
    """
    root = Path(__file__).resolve().parent.parent
    is_checkout = (root / "pyproject.toml").is_file()
    name = (str(root) if is_checkout else "mnist-cnn") + (f"[{extra}]" if extra else "")
    what = ("-e " if is_checkout else "") + shlex.quote(name)
    fits = OLDEST_PYTHON <= sys.version_info[:2] <= NEWEST_PYTHON
    python = shlex.quote(sys.executable) if fits else "python3.11"
    return f"install it: {python} -m pip install {what}"
