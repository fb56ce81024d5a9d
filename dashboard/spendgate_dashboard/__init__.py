"""The dashboard: what the API knows, for people. It talks HTTP only; the API decides who may do what."""
