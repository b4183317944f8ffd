"""TorchX components, which run subcommands of `ple-rec` on any scheduler of TorchX, such as Slurm or Kubernetes."""
