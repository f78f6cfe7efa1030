"""Language models through OpenVINO: generation and the compiled scoring pass."""
