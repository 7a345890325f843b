"""What models are used for: one folder a task."""
