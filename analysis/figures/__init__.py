"""Figures as inline SVG, or to hover over."""
