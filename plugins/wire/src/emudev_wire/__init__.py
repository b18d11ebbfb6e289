"""The backend ``wire``: joins two emulated devices, queue to queue."""
