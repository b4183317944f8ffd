"""Addresses that stand in messages for the local folders where their files are worked on."""

from __future__ import annotations

_ADDRESSES: dict[str, str] = {}


def show_as(folder: str, address: str) -> None:
    """Let messages name an address in place of a folder and of what lies in it."""
    _ADDRESSES[folder] = address


def with_addresses(text: str) -> str:
    """Return a message with addresses in place of the folders that stand for them."""
    for folder, address in _ADDRESSES.items():
        text = text.replace(folder, address)
    return text
