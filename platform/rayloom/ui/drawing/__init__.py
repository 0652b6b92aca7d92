"""What pages draw: graphs as SVG on the server, and the points of curves for the browser."""
