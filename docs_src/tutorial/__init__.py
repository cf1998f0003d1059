"""The snippets of the tutorial, one file or folder per page."""
