"""What one action consists of: products, memory traffic, messages, memory. Pure arithmetic."""
