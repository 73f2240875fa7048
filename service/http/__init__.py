"""The HTTP face: application, server, middleware, problems, schemas, routes, the page.

May import `jobs`, `operations`, `foley` and the rooms below them, not `client` or `commands`.
"""
