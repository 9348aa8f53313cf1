"""Other servers under the same load: each peer is one small file, started by `python -m bench.peers`."""
