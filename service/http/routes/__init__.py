"""The routes, a file a resource. May import the rest of `service.http`, never one another."""
