"""One metric a file, each a torchmetrics.Metric over the features of an extractor; `ovi_eval.registry` names them."""
