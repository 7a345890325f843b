"""What a rotation does to attention: measured on any model, drawn, and explained; one question a file."""
