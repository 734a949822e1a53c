"""The operators of graphs from elsewhere: a graph is a program and can write files.

A SavedModel for `--detector` or a graph for `--inception` is inspected before it is loaded. Only
what loading or running it executes counts: every SavedModel also contains operators that save its
own variables, which are never run here.
"""

import os
import re
from collections.abc import Iterable, Iterator
from typing import Any

from layered_segmentation.errors import UserError

# Operators that read or write files, open connections, call Python or other processes; by the
# names in tf.raw_ops.
_UNSAFE = re.compile(
    r"""
    .*(File|Files|Reader|ReaderV2|FileWriter|DbWriter)(V\d+|Dataset)?
    | .*(Save|Restore|Checkpoint|Summary|Summaries|RecordDataset|RecordReader).*
    | .*(TextLine|CSV|Sql|LMDB|Load|Cache|Snapshot|DataService).*Dataset.*
    | .*(PyFunc|Rpc|RPC|TRT|TPU|Collective|FileSystem|Heartbeat|RemoteCall|TextLineReader).*
    | .*DatasetToTFRecord | DatasetFromGraph | RegisterDataset.* | Debug.* | Copy | CopyHost
    | PrintV2 | ImportEvent | LoadAndRemapMatrix | Skipgram | GenerateVocabRemapping
    | (Encode|Decode)Proto(V2)? | _?(Host)?(Send|Recv) | RemoteFusedGraphExecute
    """,
    re.VERBOSE,
)
_PICTURES_AND_NUMBERS = {  # their summaries are text, which nothing writes
    f"{kind}Summary{version}"
    for kind in ("Audio", "Histogram", "Image", "Merge", "Scalar", "Tensor")
    for version in ("", "V2")
}
_RESTORE = {"Restore", "RestoreV2", "RestoreSlice"}  # how a SavedModel of TensorFlow 1 gets weights
_ADVICE = "; if you trust its author, add --trust"


def require_safe_saved_model(directory: str, flag: str) -> None:
    """Refuses a SavedModel whose loading or running would touch files or the network.

    Args:
        directory: The directory with saved_model.pb.
        flag: The flag and its value, for the message.

    Raises:
        UserError: It has such operators, or cannot be read.
    """
    from google.protobuf.message import DecodeError
    from tensorflow.core.protobuf import saved_model_pb2

    if os.path.lexists(os.path.join(directory, "saved_model.cpb")):
        raise UserError(f"{flag}: has a saved_model.cpb, which cannot be inspected{_ADVICE}")
    model = saved_model_pb2.SavedModel()
    try:
        with open(os.path.join(directory, "saved_model.pb"), "rb") as file:
            model.ParseFromString(file.read())
    except (OSError, DecodeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{flag}: cannot be loaded as a SavedModel: {reason}") from error
    for meta_graph in model.meta_graphs:
        graph = meta_graph.graph_def
        if meta_graph.object_graph_def.nodes:
            # Only these functions can be called; the graph itself is not run.
            functions = [*meta_graph.object_graph_def.concrete_functions]
            _require_safe(_operators(graph, [], functions), flag)
        else:
            run = [  # among the signatures is the initialisation
                tensor.name
                for signature in meta_graph.signature_def.values()
                for tensor in signature.outputs.values()
            ]
            for collection in meta_graph.collection_def.values():
                run += collection.node_list.value
            _require_safe(_operators(graph, run, []), flag)
            restore = [meta_graph.saver_def.restore_op_name]
            _require_safe(_operators(graph, restore, []) - _RESTORE, flag)


def require_safe_graph(graph: Any, flag: str) -> None:
    """Refuses a GraphDef with operators that touch files or the network; see above."""
    names = [node.name for node in graph.node]
    _require_safe(_operators(graph, names, []), flag)


def _require_safe(operators: Iterable[str], flag: str) -> None:
    unsafe = sorted(name for name in operators if is_unsafe(name))
    if unsafe:
        raise UserError(
            f"{flag}: the graph runs {', '.join(unsafe)}, which can reach files, the network or "
            f"other programs{_ADVICE}"
        )


def is_unsafe(operator: str) -> bool:
    """Returns whether an operator can reach files, the network or other programs."""
    return bool(_UNSAFE.fullmatch(operator)) and operator not in _PICTURES_AND_NUMBERS


def _operators(graph: Any, nodes: Iterable[str], functions: Iterable[str]) -> set[str]:
    """Returns the operators that run for some nodes and functions, with all functions called."""
    by_name = {node.name: node for node in graph.node}
    library = {function.signature.name: function for function in graph.library.function}
    operators: set[str] = set()
    left_nodes = [_node_of(name) for name in nodes]
    left_functions = list(functions)
    # Gradients are functions too.
    gradients = {one.function_name: one.gradient_func for one in graph.library.gradient}
    seen_nodes: set[str] = set()
    seen_functions: set[str] = set()

    def visit(node: Any) -> None:
        if node.op not in library:
            operators.add(node.op)
        left_functions.extend(_called(node))

    while left_nodes or left_functions:
        while left_nodes:
            name = left_nodes.pop()
            if name in seen_nodes or name not in by_name:
                continue
            seen_nodes.add(name)
            visit(by_name[name])
            left_nodes.extend(_node_of(source) for source in by_name[name].input)
        while left_functions:
            name = left_functions.pop()
            if name in seen_functions or name not in library:
                continue
            seen_functions.add(name)
            left_functions.append(gradients.get(name, ""))
            for node in library[name].node_def:
                visit(node)
    return operators


def _called(node: Any) -> Iterator[str]:
    """Yields the names of the functions that a node may call."""
    yield node.op
    for value in node.attr.values():
        yield value.func.name
        yield from (function.name for function in value.list.func)


def _node_of(tensor: str) -> str:
    """Returns the node of `name:0`, `^name` or `name`."""
    return tensor.removeprefix("^").partition(":")[0]
