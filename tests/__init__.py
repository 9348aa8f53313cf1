"""Tests: they mirror the tree, talk to real servers (services.py), and drive the page and the terminal (e2e/)."""
