"""What the README and the documentation show: each file is run by a test."""
