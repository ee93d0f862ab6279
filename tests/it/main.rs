//! Integration tests, in one binary; one module for each behaviour.

mod policy_corpus;
mod policy_props;
