"""Faults of what a GPU runs: graphs, operators, transfers, collectives."""

from __future__ import annotations

from tests.mutations.fault import Fault

_LAUNCHES = ("tests/gpu_proofs/test_launches.py",)
_TRANSFERS = ("tests/gpu_proofs/test_transfers.py",)
_BACKGROUND = ("tests/checkpoint/test_background.py",)
_DEVICES = ("tests/gpu_proofs/test_devices.py",)
_ONE_GRAPH = ("tests/gpu_proofs/test_one_graph.py",)
_COLLECTIVES = ("tests/gpu_proofs/test_collectives.py",)
_STREAMS = ("tests/gpu_proofs/test_streams.py",)

FAULTS = (
    Fault(
        "the loss of each task takes an operator more",
        "ple_rec/models/losses.py",
        "(loss(logit_B, label_B) *",
        "(loss(logit_B, label_B).abs() *",
        _LAUNCHES,
    ),
    Fault(
        "the metrics of every step are computed at once on a GPU",
        "ple_rec/training/progress.py",
        'return 1 << 16 if device.type == "cuda" else 1',
        "return 1",
        _LAUNCHES,
    ),
    Fault(
        "batches do not carry the number of ids of each feature, so it is read from the device",
        "ple_rec/data/collate.py",
        "length_per_key=length_per_key,",
        "length_per_key=None,",
        _TRANSFERS,
    ),
    Fault(
        "the norm of the gradients is read from the device at each step",
        "ple_rec/training/step.py",
        "guard.record(step + 1, sums_K, gradient_norm)",
        "guard.record(step + 1, sums_K, gradient_norm * (gradient_norm.item() > 0))",
        _TRANSFERS,
    ),
    Fault(
        "the weights of the tasks are copied to the device from memory that is not pinned",
        "ple_rec/training/step.py",
        'torch.tensor(weights_K, pin_memory=device.type == "cuda").to(device, non_blocking=True)',
        "torch.tensor(weights_K, device=device)",
        _TRANSFERS,
    ),
    Fault(
        "the ids of the next batch are exchanged on the stream of the model",
        "ple_rec/distributed/sparse_prefetch.py",
        """        with on_stream(self._streams.exchange):
            self._ids = self._counts.wait()""",
        "        self._ids = self._counts.wait()",
        _TRANSFERS,
    ),
    Fault(
        "the index of the columns of pooled rows is built and copied at each step",
        "ple_rec/models/multitask.py",
        "self._column_order is None or",
        "True or",
        _TRANSFERS,
    ),
    Fault(
        "a machine for GPUs, of which torch sees none, trains on its CPU",
        "ple_rec/distributed/process_group.py",
        '(kind == "auto" and not has_gpu_kernels)',
        '(kind == "auto" and not (has_gpu_kernels and torch.cuda.is_available()))',
        ("tests/distributed/test_process_group.py",),
    ),
    Fault(
        "doctor is content with FBGEMM's CUDA wheel where torch sees no GPU",
        "ple_rec/runtime/doctor.py",
        '"" if missing_gpu is None or CUDA_WHEEL not in versions else missing_gpu.fix',
        '""',
        ("tests/runtime/test_doctor.py",),
    ),
    Fault(
        "a job with GPUs may run on CPUs",
        "launch/jobs.py",
        "verb = _require_gpu(verb, resource.gpu)",
        "verb = list(verb)",
        ("tests/launch/test_train_job.py",),
    ),
    Fault(
        "a buffer of saves stays registered with CUDA after it is freed",
        "ple_rec/checkpoint/background.py",
        "weakref.finalize(buffer, unpin_memory, buffer.data_ptr()).atexit = False",
        "pass",
        _BACKGROUND,
    ),
    Fault(
        "the thread of a save begins on GPU 0 on every rank",
        "ple_rec/checkpoint/background.py",
        "target=on_current_device(run)",
        "target=run",
        _BACKGROUND,
    ),
    Fault(
        "the thread of the loader begins on GPU 0 on every rank",
        "ple_rec/data/ahead.py",
        "target=on_current_device(_fill)",
        "target=_fill",
        ("tests/data/test_ahead.py",),
    ),
    Fault(
        "the mask of the samples that have a weight is on the CPU",
        "ple_rec/models/losses.py",
        "has_weight_BK = weights_BK > 0",
        "has_weight_BK = weights_BK.cpu() > 0",
        _DEVICES,
    ),
    Fault(
        "the mask of the bags without a total weight is on the CPU",
        "ple_rec/models/embeddings.py",
        "is_zero_B1 = total_B1 == 0",
        "is_zero_B1 = torch.zeros(total_B1.shape, dtype=torch.bool)",
        _DEVICES,
    ),
    Fault(
        "the experts that a gate reads are a tensor that stays on the CPU",
        "ple_rec/modules/mixing.py",
        'self.register_buffer("edges", torch.tensor(edges, dtype=torch.long), persistent=False)',
        "self.edges = torch.tensor(edges, dtype=torch.long)",
        _DEVICES,
    ),
    Fault(
        "requests to stop or save are copied to the device from memory that is not pinned",
        "ple_rec/training/non_finite_guard.py",
        "self._requests[2 * stop + save]",
        "torch.tensor([float(stop), float(save)]).to(self.device, non_blocking=True)",
        _DEVICES,
    ),
    Fault(
        "the host decides by the norm of the gradients whether they are clipped",
        "ple_rec/distributed/optimizers.py",
        "if self.clip_norm is not None:",
        "if self.clip_norm is not None and norm.item() > self.clip_norm:",
        _DEVICES,
    ),
    Fault(
        "copies of table shards for a save beside training say that they lie on the GPU",
        "ple_rec/checkpoint/background.py",
        "_without_device(shard.metadata)",
        "shard.metadata",
        _DEVICES,
    ),
    Fault(
        "the scorer branches on the values of a batch",
        "ple_rec/modules/mixing.py",
        "if not self.has_all_edges:",
        "if not self.has_all_edges or logits_BN.isnan().any():",
        _ONE_GRAPH,
    ),
    Fault(
        "the last batch of an epoch is not padded",
        "ple_rec/data/loader.py",
        """                    [part for reader in readers for part in reader.next_rows(self.rows_per_step)],
                    self.selection,
                    self.batch_size,""",
        """                    (parts := [part for reader in readers for part in reader.next_rows(self.rows_per_step)]),
                    self.selection,
                    sum(part.stop - part.start for part in parts),""",
        _ONE_GRAPH,
    ),
    Fault(
        "the gradients of dense layers are not averaged over the ranks",
        "ple_rec/training/step.py",
        "context.optimizers.average_gradients()",
        "pass",
        ("tests/distributed/test_gradients.py",),
    ),
    Fault(
        "one rank skips an evaluation",
        "ple_rec/training/loop.py",
        "self._context.config.train.evaluate_every) and self._evaluate())",
        "self._context.config.train.evaluate_every) and self._context.ranks.rank != 3 and self._evaluate())",
        _COLLECTIVES,
    ),
    Fault(
        "rank 0 alone asks whether the weights of other ranks are finite",
        "ple_rec/training/finite.py",
        "    dist.all_reduce(flags, dist.ReduceOp.MAX)",
        "    if context.ranks.is_main:\n        dist.all_reduce(flags, dist.ReduceOp.MAX)",
        _COLLECTIVES,
    ),
    Fault(
        "a rank whose loss is not finite stops alone before a report",
        "ple_rec/training/non_finite_guard.py",
        "        dist.all_reduce(flags)\n",
        "",
        _COLLECTIVES,
    ),
    Fault(
        "the thread that saves uses the process group of the training steps",
        "ple_rec/checkpoint/store.py",
        "dist.gather_object(writer.written_files, files_of_ranks, dst=0, group=group)",
        "dist.gather_object(writer.written_files, files_of_ranks, dst=0)",
        _COLLECTIVES,
    ),
    Fault(
        "tables with fewer rows than ranks are cut by rows",
        "ple_rec/distributed/layouts.py",
        "return -(-rows // shard_count) * (shard_count - 1) >= rows",
        "return False",
        _COLLECTIVES,
    ),
    Fault(
        "a step begins before its batch has been copied to the device",
        "ple_rec/training/batch_feeder.py",
        "wait_for_stream(self._streams.copy, batch)",
        "pass",
        _STREAMS,
    ),
    Fault(
        "ids are exchanged before they have been copied to the device",
        "ple_rec/distributed/sparse_prefetch.py",
        "wait_for_stream(streams.copy, ids)",
        "pass",
        _STREAMS,
    ),
    Fault(
        "cache lines are unlocked while an evaluation still reads them",
        "ple_rec/distributed/sparse_prefetch.py",
        "wait_for_stream(torch.cuda.default_stream(streams.prefetch.device))",
        "pass",
        _STREAMS,
    ),
    Fault(
        "the memory of a batch's vectors may be given away during its step",
        "ple_rec/data/batch.py",
        "            self.vectors_BW,\n",
        "",
        _STREAMS,
    ),
)
