"""Our own results: metrics by query of finished runs in one Parquet file, read and tested again."""
