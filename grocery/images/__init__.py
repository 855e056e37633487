"""Any picture to an upright sRGB image."""
