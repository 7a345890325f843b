"""Images for studies and training: the embedded set, a user's own folders, crops and canvases."""
