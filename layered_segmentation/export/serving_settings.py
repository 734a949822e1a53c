"""The server's text files: which model it serves, and how it puts requests together."""

import os

from layered_segmentation import files

BATCHING = "batching_params.pbtxt"  # TF Serving's name for it, inside a version
MODELS = "models.config"
_SERVED_FROM = "/models"  # where the Docker image of TF Serving has its models

# For a CPU: small batches, hardly any waiting. A full queue fails at once instead of growing.
_BATCHING_PARAMETERS = """\
max_batch_size { value: 32 }
batch_timeout_micros { value: 2000 }
max_enqueued_batches { value: 100 }
"""


def write_batching(directory: str) -> None:
    """Writes a version's batching parameters, read under --enable_per_model_batching_parameters."""
    files.write_text(os.path.join(directory, BATCHING), _BATCHING_PARAMETERS)


def write_models(out: str, model: str) -> None:
    """Writes OUT/models.config, for --model_config_file, unless there is one."""
    from google.protobuf import text_format
    from tensorflow_serving.config import model_server_config_pb2

    path = os.path.join(out, MODELS)
    if os.path.lexists(path):  # perhaps edited
        return
    config = model_server_config_pb2.ModelServerConfig()
    served = config.model_config_list.config.add()
    served.name = model
    served.base_path = f"{_SERVED_FROM}/{model}"
    served.model_platform = "tensorflow"
    files.write_text(path, text_format.MessageToString(config))
