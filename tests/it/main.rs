//! Everything that is tried from outside, in one binary.

mod package_cell;
mod package_install;
