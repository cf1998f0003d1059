"""Faults while publishers and subscribers run without a pause."""
