"""Stages of the data pipeline, a `webdataset.DataPipeline`, one idea a file. A stage is a callable from an iterator of items
to an iterator of items. Begin with `base.py`; `sunlab.data.streamed` puts the stages of shards together."""
