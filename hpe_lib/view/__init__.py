"""Every picture and panel."""
