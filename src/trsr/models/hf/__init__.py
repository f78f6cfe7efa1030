"""Language models through transformers: loading, generating, scoring."""
