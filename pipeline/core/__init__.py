"""What everything else stands on: settings, errors, files, provenance."""
