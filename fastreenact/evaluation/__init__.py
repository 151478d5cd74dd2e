"""How good is a reenactment: metrics, the protocol on clips, and what is written about it."""
