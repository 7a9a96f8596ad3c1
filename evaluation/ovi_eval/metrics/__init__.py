"""One metric a file, each a torchmetrics.Metric over ClipSets; `ovi_eval.registry` names them."""
