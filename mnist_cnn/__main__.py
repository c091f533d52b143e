"""The command `python -m mnist_cnn`.

Python 3.6 and newer can read this file.
"""

import sys

from mnist_cnn.version import OLDEST_PYTHON, PYTHON_NEEDED, installation_hint

if sys.version_info < OLDEST_PYTHON:  # a checkout can be started with any Python
    running = sys.version.split()[0]
    sys.stderr.write(f"error: {PYTHON_NEEDED}, and this is Python {running}\n{installation_hint()}\n")
    raise SystemExit(2)

try:
    from mnist_cnn.cli.main import main_and_exit
except KeyboardInterrupt:  # Ctrl-C while the command line is still being imported
    raise SystemExit(130) from None

main_and_exit()
