"""Device meshes, parameter shardings, distributed start and signals."""
