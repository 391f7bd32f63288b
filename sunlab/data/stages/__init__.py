"""Stages of the data pipeline, a `webdataset.DataPipeline`: callables from an iterator of items to another one. Open
`archive.py` first, from shards to undecoded samples; `sunlab.data.stream` and `sunlab.data.exact` put the stages of the two
orders together, and `sunlab.data.pipeline` has the contract."""
