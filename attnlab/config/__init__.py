"""The frozen schemas of a sweep file and a trial, whatever they are used for."""
