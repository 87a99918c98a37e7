"""What lies on disk: paths, results, metrics, and the storage behind a URI."""
