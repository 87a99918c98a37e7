"""The frozen schemas of a sweep file and a trial; nothing here knows what they are used for."""
