"""How fast Peyk is, and that nothing is lost meanwhile: a load generator and the scenarios we quote."""
