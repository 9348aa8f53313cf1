"""The faces as people use them: the page in a real Chromium, the terminal in a real terminal."""
