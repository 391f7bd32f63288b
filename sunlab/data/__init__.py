"""Data: from shards or banks to `Samples`, in an order that does not depend on ranks or workers."""
