//! Floor 2: operators.
