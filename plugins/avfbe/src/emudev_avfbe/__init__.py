"""The backend ``net_avfbe``: an ethdev port over any emudev whose queues carry frames."""
