//! The small process that keeps the power to start cells, and our end of its fixed protocol.
