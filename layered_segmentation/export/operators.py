"""Which operators an exported SavedModel runs, and whether every model server has them."""

import os

from layered_segmentation.errors import UserError

# Registered with TensorFlow, and yet not for a server: these call back into the Python process
# that made the graph, or need a compiler or a device that the server may lack.
_NOT_SERVED = ("PyFunc", "EagerPyFunc", "Xla", "TPU", "Tpu", "Trt")


def served(directory: str) -> list[str]:
    """Returns the operators of a SavedModel, sorted, all of them TensorFlow's own.

    Operators that a library adds (TensorFlow Text, whose import registers them, too) are none of
    TensorFlow's: `tf.raw_ops` was made when TensorFlow was built.

    Args:
        directory: Holds saved_model.pb.

    Raises:
        UserError: An operator is not among the standard kernels.
    """
    import tensorflow as tf

    names = _operators(directory)
    foreign = [
        name for name in names if not hasattr(tf.raw_ops, name) or name.startswith(_NOT_SERVED)
    ]
    if foreign:
        raise UserError(
            f"the exported model needs {', '.join(foreign)}, which TensorFlow Serving does not "
            "have; nothing was written"
        )
    return names


def _operators(directory: str) -> list[str]:
    from tensorflow.core.protobuf import saved_model_pb2

    model = saved_model_pb2.SavedModel()
    with open(os.path.join(directory, "saved_model.pb"), "rb") as file:
        model.ParseFromString(file.read())
    operators = set()
    for graph in (meta_graph.graph_def for meta_graph in model.meta_graphs):
        functions = graph.library.function
        nodes = [*graph.node, *(node for function in functions for node in function.node_def)]
        # A function is called by its own name in graphs of old, which makes that no operator.
        operators |= {node.op for node in nodes} - {item.signature.name for item in functions}
    return sorted(operators)
