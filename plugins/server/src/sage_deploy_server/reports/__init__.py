"""Saves the dashboard as one file that needs no server: recorded API answers, and the pages that show them."""
