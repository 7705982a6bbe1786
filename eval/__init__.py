"""How good is an encoder, and what does it find."""
