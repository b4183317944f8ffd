"""Pure tensor code on one device."""
