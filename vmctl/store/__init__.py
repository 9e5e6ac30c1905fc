"""Stores on disk, a file for each format."""
