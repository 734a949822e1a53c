"""Runs a SavedModel through TensorFlow's C interface, without the Python that made it.

usage: python c_api.py SAVED_MODEL INPUT_OPERATION OUTPUT_OPERATION OUTPUT_INDEX IN.npy OUT.npy
"""

import ctypes
import importlib.util
import os
import sys

import numpy as np

_TYPES = {np.dtype(np.float32): 1, np.dtype(np.uint8): 4}  # TF_DataType


class _Output(ctypes.Structure):
    _fields_ = [("operation", ctypes.c_void_p), ("index", ctypes.c_int)]


def _library():
    folder = importlib.util.find_spec("tensorflow").submodule_search_locations[0]
    ctypes.CDLL(os.path.join(folder, "libtensorflow_framework.so.2"), mode=ctypes.RTLD_GLOBAL)
    library = ctypes.CDLL(os.path.join(folder, "libtensorflow_cc.so.2"), mode=ctypes.RTLD_GLOBAL)
    for name in (
        "TF_NewStatus", "TF_NewGraph", "TF_NewSessionOptions", "TF_LoadSessionFromSavedModel",
        "TF_GraphOperationByName", "TF_AllocateTensor", "TF_TensorData",
    ):  # fmt: skip
        getattr(library, name).restype = ctypes.c_void_p
    library.TF_Message.restype = ctypes.c_char_p
    library.TF_Dim.restype = ctypes.c_int64
    return library


def run(directory, input_name, output_name, output_index, values):
    """Returns one output, float32, of one input."""
    tf = _library()
    status, graph = ctypes.c_void_p(tf.TF_NewStatus()), ctypes.c_void_p(tf.TF_NewGraph())

    def check():
        if tf.TF_GetCode(status):
            raise RuntimeError(tf.TF_Message(status).decode())

    tags = (ctypes.c_char_p * 1)(b"serve")
    options = ctypes.c_void_p(tf.TF_NewSessionOptions())
    session = ctypes.c_void_p(
        tf.TF_LoadSessionFromSavedModel(
            options, None, directory.encode(), tags, 1, graph, None, status
        )
    )
    check()

    def operation(name, index):
        found = tf.TF_GraphOperationByName(graph, name.encode())
        assert found, name
        return _Output(found, index)

    values = np.ascontiguousarray(values)
    sides = (ctypes.c_int64 * values.ndim)(*values.shape)
    size = ctypes.c_size_t(values.nbytes)
    tensor = tf.TF_AllocateTensor(_TYPES[values.dtype], sides, values.ndim, size)
    ctypes.memmove(tf.TF_TensorData(ctypes.c_void_p(tensor)), values.ctypes.data, values.nbytes)
    result = ctypes.c_void_p()
    tf.TF_SessionRun(
        session, None,
        ctypes.byref(operation(input_name, 0)), ctypes.byref(ctypes.c_void_p(tensor)), 1,
        ctypes.byref(operation(output_name, output_index)), ctypes.byref(result), 1,
        None, 0, None, status,
    )  # fmt: skip
    check()
    shape = [tf.TF_Dim(result, axis) for axis in range(tf.TF_NumDims(result))]
    assert tf.TF_TensorType(result) == _TYPES[np.dtype(np.float32)]
    data = ctypes.string_at(tf.TF_TensorData(result), 4 * int(np.prod(shape)))
    return np.frombuffer(data, np.float32).reshape(shape)


if __name__ == "__main__":
    saved_model, source, target, number, given, wanted = sys.argv[1:]
    np.save(wanted, run(saved_model, source, target, int(number), np.load(given)))
    assert not {"tensorflow", "keras", "layered_segmentation"} & set(sys.modules)
