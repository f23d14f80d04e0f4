"""Data that crosses parts: what one part writes and another reads."""
