"""Test classes for every backend.

They ship with the package, for backends outside it too, and need pytest. Subclass them in a test module of
yours; pytest then runs their tests against your backend:

    class TestMyBackend(BackendContract):
        @pytest.fixture(scope="class")
        @classmethod
        def overrides(cls):
            return ("backend=my_backend",)  # and the keys that set it up

        @pytest.fixture(scope="class")
        @classmethod
        def small_job(cls):
            return ("data.train_limit=1000", "data.test_limit=500", "train.epochs=2")

A `RemoteBackend` also passes RemoteContract, whose subclass has one more fixture, `faults`. Everything runs
for real, so the job should train in seconds.
"""

from mnist_cnn.testing.backend_contract import BackendContract
from mnist_cnn.testing.fixtures import LONG
from mnist_cnn.testing.remote_contract import FaultInjector, RemoteContract

__all__ = ["LONG", "BackendContract", "FaultInjector", "RemoteContract"]
