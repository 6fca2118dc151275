"""What verbs show of the instance: objects as documents, their differences, resource usage, processes."""
