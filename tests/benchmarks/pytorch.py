"""PyTorch's own MNIST example (examples/mnist), on the CPU: its network, transforms, loader and loop.

    python tests/benchmarks/pytorch.py EPOCHS IMAGES

Prints JSON: the seconds of each epoch, with an evaluation on the test set, and the test accuracy after it.

Differences from https://github.com/pytorch/examples/blob/main/mnist/main.py make it comparable to the others:
batches of 128, a constant learning rate, a shuffled training set. The code transforms each image as
torchvision does (PIL image, `ToTensor`, `Normalize`), so that torchvision need not be installed.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

from mnist_cnn.config import DataConfig
from mnist_cnn.data import datasets

MEAN, DEVIATION = 0.1307, 0.3081  # of the training set's pixels, from the example


class Net(nn.Module):  # type: ignore[misc]
    """The example's network, which is also the tutorial's."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 32, 3, 1)
        self.conv2 = nn.Conv2d(32, 64, 3, 1)
        self.dropout1 = nn.Dropout(0.25)
        self.dropout2 = nn.Dropout(0.5)
        self.fc1 = nn.Linear(9216, 128)
        self.fc2 = nn.Linear(128, 10)

    def forward(self, x: Any) -> Any:
        """(B, 1, 28, 28) float32 -> log-probabilities (B, 10)."""
        x = functional.relu(self.conv1(x))
        x = functional.relu(self.conv2(x))
        x = self.dropout1(functional.max_pool2d(x, 2))
        x = functional.relu(self.fc1(torch.flatten(x, 1)))
        return functional.log_softmax(self.fc2(self.dropout2(x)), dim=1)


class Digits(Dataset):  # type: ignore[misc]
    """Images (N, 28, 28, 1) uint8 and labels, transformed one by one as torchvision does."""

    def __init__(self, images: Any, labels: Any) -> None:
        self.images = torch.from_numpy(images[..., 0].copy())  # (N, 28, 28)
        self.labels = torch.from_numpy(labels.astype(np.int64))

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        image = Image.fromarray(self.images[index].numpy())
        pixels = torch.from_numpy(np.array(image, np.uint8, copy=True))[:, :, None]
        tensor = pixels.permute(2, 0, 1).contiguous().to(dtype=torch.get_default_dtype()).div(255)
        mean, deviation = torch.as_tensor([MEAN]), torch.as_tensor([DEVIATION])
        normal = tensor.clone().sub_(mean.view(-1, 1, 1)).div_(deviation.view(-1, 1, 1))  # (1, 28, 28)
        return normal, int(self.labels[index])


def train(model: Net, loader: Any, optimizer: Any) -> None:
    model.train()
    for images, labels in loader:
        optimizer.zero_grad()
        functional.nll_loss(model(images), labels).backward()
        optimizer.step()


def test(model: Net, loader: Any) -> float:
    """Return the accuracy in [0, 1]."""
    model.eval()
    loss = correct = 0
    with torch.no_grad():
        for images, labels in loader:
            output = model(images)
            loss += functional.nll_loss(output, labels, reduction="sum").item()
            correct += output.argmax(dim=1).eq(labels).sum().item()
    return float(correct / len(loader.dataset))


epochs, train_limit = map(int, sys.argv[1:])
torch.manual_seed(0)
arrays = datasets.load(DataConfig(train_limit=train_limit))
train_loader = DataLoader(Digits(arrays.x_train, arrays.y_train), batch_size=128, shuffle=True)
test_loader = DataLoader(Digits(arrays.x_test, arrays.y_test), batch_size=1000)
network = Net()
adadelta = torch.optim.Adadelta(network.parameters(), lr=1.0)
seconds, accuracies = [], []
for _ in range(epochs):
    started = time.perf_counter()
    train(network, train_loader, adadelta)
    accuracies.append(test(network, test_loader))
    seconds.append(time.perf_counter() - started)
print(json.dumps({"seconds": seconds, "test_accuracy": accuracies}))
