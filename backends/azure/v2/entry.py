"""The node's script for SDK v2.

It lies at the root of the code, beside mnist_cnn/, and trains with that copy. The service keeps ./outputs,
and stores the message with which a failed script exits.
"""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
if __name__ == "__main__":
    sys.path.insert(0, str(HERE))
    from mnist_cnn.backends.azure.metrics import MlflowMetrics, train

    raise SystemExit(train(HERE, MlflowMetrics))
