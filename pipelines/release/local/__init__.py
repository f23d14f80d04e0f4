"""Releases on one machine: copies under the stack's supervisor, Envoy in front of them."""
