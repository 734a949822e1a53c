import json
import os

import pytest
import tensorflow as tf

from layered_segmentation.gan import machine
from layered_segmentation.run_directory import RunDirectory


@pytest.fixture
def run(tmp_path):
    return RunDirectory(tmp_path)


def test_a_session_on_another_machine_is_told_so(run, capsys, monkeypatch):
    engine = tf.distribute.get_strategy()
    machine.note(run, engine, 0)
    with open(run.machine_path) as file:
        recorded = json.load(file)
    assert recorded["tensorflow"] == tf.__version__ and recorded["devices"] == ["CPU"]
    assert 1 <= recorded["intra_op_threads"] <= os.cpu_count()
    machine.note(run, engine, 100)
    assert capsys.readouterr().err == ""
    monkeypatch.setenv("TF_NUM_INTRAOP_THREADS", "77")
    monkeypatch.setenv("TF_ENABLE_ONEDNN_OPTS", "0")
    machine.note(run, engine, 0)  # nothing was trained
    with open(run.machine_path, "w") as file:
        json.dump(recorded, file)
    assert capsys.readouterr().err == ""
    machine.note(run, engine, 100)
    message = capsys.readouterr().err
    threads, kernels = recorded["intra_op_threads"], recorded["onednn"]
    assert f"intra_op_threads {threads} then, 77 now; onednn {kernels} then, 0 now" in message
    machine.note(run, engine, 100)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("content", ["", "{", "[]"])
def test_a_damaged_record_is_written_again(run, content, capsys):
    with open(run.machine_path, "w") as file:
        file.write(content)
    machine.note(run, tf.distribute.get_strategy(), 100)
    with open(run.machine_path) as file:
        assert "tensorflow" in json.load(file)
    assert capsys.readouterr().err == ""
