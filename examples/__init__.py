"""Small apps that show what the package is for. Each is run by a test."""
