"""A traced step's variables, and operations to refuse."""

from __future__ import annotations

from typing import Any

from mnist_cnn.errors import ConfigurationError

# The operations of TensorFlow's `random_ops` that keep their random state to themselves.
STATEFUL_RANDOM_OPS = {
    "Multinomial", "ParameterizedTruncatedNormal", "RandomGamma", "RandomPoisson", "RandomPoissonV2",
    "RandomShuffle", "RandomStandardNormal", "RandomUniform", "RandomUniformInt", "TruncatedNormal",
}  # fmt: skip
PYTHON_OPS = {"EagerPyFunc", "PyFunc", "PyFuncStateless"}
READING_OPS = {"ReadVariableOp", "ResourceGather", "ResourceGatherNd", "VariableShape"}


def check_draws(graph: Any) -> None:
    """Check that random state can be saved. Raises ConfigurationError.

    No operation may keep it to itself.
    """
    if stateful := sorted(_operations(graph) & STATEFUL_RANDOM_OPS):
        names = ", ".join(stateful)
        message = f"the network draws with TensorFlow's {names}, whose state no checkpoint can hold"
        hint = "draw with keras.random, seeded by a keras.random.SeedGenerator"
        raise ConfigurationError(message, hint)


def check_calls_no_python(graph: Any, shards: int) -> None:
    """Check that a step with shards calls no Python.

    Workers don't share Python's state. Raises ConfigurationError.
    """
    if foreign := sorted(_operations(graph) & PYTHON_OPS):
        message = f"train.shards={shards}: the network calls Python while it trains ({', '.join(foreign)})"
        hint = "several workers would not compute the same; use TensorFlow's operations, or train.shards=1"
        raise ConfigurationError(message, hint)


def captured_variables(graph: Any) -> list[Any]:
    """Return a graph's variables, in trace order.

    `graph.variables` is a set.
    """
    variables = {id(variable.handle): variable for variable in graph.variables}
    return [variables[id(outer)] for outer, _ in graph.captures if id(outer) in variables]


def changed_variables(graph: Any) -> list[Any]:
    """Return a graph's variables that aren't only read.

    They are in the order of the trace.
    """
    variables = {id(variable.handle): variable for variable in graph.variables}
    return [
        variables[id(outer)]
        for outer, inner in graph.captures
        if id(outer) in variables and any(user.type not in READING_OPS for user in inner.consumers())
    ]


def _operations(graph: Any) -> set[str]:
    """Return the names of a graph's operations.

    Includes those of its functions.
    """
    definition = graph.as_graph_def()
    functions = (node for function in definition.library.function for node in function.node_def)
    return {node.op for node in (*definition.node, *functions)}
