//! Tests of the built program, one module for each behaviour, in one binary.
#![expect(
    clippy::panic,
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test says no by panicking and shows what it skipped; helpers are part of the tests"
)]

mod access;
mod architecture;
mod authority;
mod booted;
mod cell_floor;
mod cell_launch;
mod cell_namespaces;
mod cell_refusal;
mod cell_resources;
mod cell_runtimes;
mod cell_strict;
mod cell_supervision;
mod cell_user;
mod chaos;
mod cli;
mod config;
mod credentials;
mod egress;
mod escape;
mod exec;
mod faults;
mod fidelity;
mod guards;
mod honest;
mod hostile_client;
mod hostile_server;
mod http_change;
mod http_conformance;
mod http_front;
mod http_given_up;
mod http_health;
mod http_hostile;
mod http_identity;
mod http_inside;
mod http_issuer;
mod http_legacy;
mod http_many;
mod http_modern;
mod http_opening;
mod http_revive;
mod http_shared;
mod https_clients;
mod https_inspector;
mod https_wire;
mod journal;
mod kill_fast;
mod kill_nine;
mod matrix;
mod operate;
mod overlap;
mod own_cage;
mod package_cell;
mod package_install;
mod policy_corpus;
mod policy_props;
mod replaced;
mod revive;
mod rig;
mod rotation;
mod signing;
mod smuggling;
mod spawn_cells;
mod spawn_tree;
mod standstill;
mod stopping;
mod support;
mod switch;
mod unit;
mod virtual_day;
mod web;
mod widening;
mod wire;
