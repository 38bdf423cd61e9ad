"""Runs graphs as C compiled for this machine."""
