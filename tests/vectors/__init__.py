"""What Python and the page must agree on."""
