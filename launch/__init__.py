"""TorchX components: the same verbs on any scheduler."""
