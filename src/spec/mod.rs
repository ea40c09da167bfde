//! Floor 4: the YAML.
