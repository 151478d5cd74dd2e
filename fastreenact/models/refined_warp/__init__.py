"""The landmark warp refined by networks: they correct its field and draw over its picture. Not of a paper."""
