"""What `make fuzz` throws at trsr, an area a module."""
