"""What a model server and its clients need beside the SavedModel."""
