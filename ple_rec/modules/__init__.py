"""Layers of the network as pure tensor code for one device."""
