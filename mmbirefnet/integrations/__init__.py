"""Models of this project in programs by others."""
