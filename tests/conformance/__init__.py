"""The nine promises, each against every backend: this suite is what "works" means."""
