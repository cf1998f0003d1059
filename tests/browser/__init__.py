"""The chat in a real Chromium, used as people use it: by labels, roles and the keyboard."""
