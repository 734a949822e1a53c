"""Graphs from elsewhere that would write files: refused before they are loaded."""

import os
import shutil

import pytest
import tensorflow as tf

from layered_segmentation.errors import UserError
from layered_segmentation.evaluation import operators


def of_module(path, function, **attributes):
    """Saves a SavedModel with one signature."""
    module = tf.Module()
    for name, value in attributes.items():
        setattr(module, name, value)
    module.run = tf.function(function, input_signature=[tf.TensorSpec([], tf.float32, "x")])
    tf.saved_model.save(module, str(path), signatures={"serving_default": module.run})
    return str(path)


def test_a_model_with_variables_is_safe(tmp_path):
    scale = tf.Variable(2.0)
    path = of_module(tmp_path / "model", lambda x: {"y": scale * x}, scale=scale)
    operators.require_safe_saved_model(path, "--detector=x")


@pytest.mark.parametrize("where", ["plain", "in a branch", "in a loop", "in a dataset"])
def test_a_model_that_writes_a_file_is_refused(tmp_path, where):
    target = str(tmp_path / "written")

    def write(x):
        tf.io.write_file(target, "hostile")
        return x

    def run(x):
        if where == "in a branch":
            x = tf.cond(x > 0, lambda: write(x), lambda: x)
        elif where == "in a loop":
            x = tf.while_loop(lambda y: y > 0, lambda y: [write(y) - 1], [x])[0]
        elif where == "in a dataset":
            x = tf.data.Dataset.from_tensors(x).map(write).get_single_element()
        else:
            x = write(x)
        return {"y": x}

    path = of_module(tmp_path / "model", run)
    with pytest.raises(UserError, match=r"--detector=x: the graph runs WriteFile, .* add --trust"):
        operators.require_safe_saved_model(path, "--detector=x")
    assert not os.path.exists(target)
    tf.saved_model.load(path).signatures["serving_default"](x=tf.constant(1.0))
    assert os.path.exists(target)  # it is hostile


def test_a_model_of_tensorflow_1(tmp_path):
    v1 = tf.compat.v1
    for name in ("safe", "hostile", "initialiser"):
        with tf.Graph().as_default(), v1.Session() as session:
            x = v1.placeholder(tf.float32, [], "x")
            y = v1.get_variable("v", initializer=1.0, use_resource=False) * x
            write = v1.write_file(str(tmp_path / "written"), "hostile")
            init = None
            if name == "hostile":
                with tf.control_dependencies([write]):
                    y = tf.identity(y)
            elif name == "initialiser":
                init = write
            session.run(v1.global_variables_initializer())
            v1.saved_model.simple_save(
                session, str(tmp_path / name), {"x": x}, {"y": y}, legacy_init_op=init
            )
        if name == "safe":
            operators.require_safe_saved_model(str(tmp_path / name), "--detector=x")
            continue
        with pytest.raises(UserError, match="the graph runs WriteFile"):
            operators.require_safe_saved_model(str(tmp_path / name), "--detector=x")


def test_a_file_that_cannot_be_inspected_is_refused(tmp_path):
    path = of_module(tmp_path / "model", lambda x: {"y": x})
    shutil.copy(tmp_path / "model" / "saved_model.pb", tmp_path / "model" / "saved_model.cpb")
    with pytest.raises(UserError, match=r"saved_model\.cpb, which cannot be inspected"):
        operators.require_safe_saved_model(path, "--detector=x")


def test_operators_by_name():
    unsafe = (
        "ReadFile WriteFile SaveV2 MergeV2Checkpoints PyFunc EagerPyFunc PrintV2 TFRecordDataset"
    )
    unsafe += " DataServiceDatasetV4 CacheDatasetV2 CreateSummaryFileWriter DatasetFromGraph Recv"
    unsafe += (
        " DebugIdentityV3 DecodeProtoV2 InitializeTableFromTextFileV2 RpcCall SnapshotDatasetV2"
    )
    assert [name for name in unsafe.split() if not operators.is_unsafe(name)] == []
    safe = "Conv2D MatMul NonMaxSuppressionV5 DecodeJpeg ReadVariableOp TensorArrayReadV3 If While"
    safe += (
        " MapDataset TensorSliceDataset StatefulPartitionedCall HashTableV2 CropAndResize Assert"
    )
    safe += (
        " ScalarSummary VarHandleOp TensorArrayWriteV3 Print CombinedNonMaxSuppression AddV2 Pack"
    )
    assert [name for name in safe.split() if operators.is_unsafe(name)] == []
