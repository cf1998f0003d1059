"""The package `chat` of the tutorial's last page."""
