"""Photographs made to move: a still portrait as a head that turns and speaks."""
