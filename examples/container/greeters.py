"""The service of this example."""


class Greeter:
    """Greets."""

    def greet(self, name: str) -> str:
        """Greet somebody."""
        self.ctx.logger.info("greeting %s", name)  # type: ignore[attr-defined] # set when the service is deployed
        return f"Hello, {name}!"
