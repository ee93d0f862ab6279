//! A cell that no flag asks for: the one that installs packages may use datagrams.

use crate::support::{enter_as, example, planned, skip};
use ::cofferdam::config::{Cell, EgressRule};
use serde_json::{Value, json};
use std::net::{TcpListener, UdpSocket};

#[test]
fn a_cell_with_datagrams_has_udp_and_still_no_other_way_out() {
    let missing = ::cofferdam::cell::probe().missing;
    if !missing.is_empty() {
        return skip("cell.floor", &format!("{missing:?}"));
    }
    let [outside, work] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    let targets = json!({
        "outside": outside.path(),
        "work": work.path(),
        "tcp": tcp.local_addr().unwrap().port(),
        "udp": udp.local_addr().unwrap().port(),
        // No process has this number: the acts on one fail.
        "pid": i32::MAX,
    });
    let egress = vec![EgressRule {
        host: "localhost".into(),
        port: 443,
    }];
    let write = vec![work.path().to_owned()];
    let tmp = tempfile::tempdir().unwrap();
    let config = Cell {
        egress,
        write,
        ..Cell::default()
    };
    let probe = example("probe");
    let mut spec = planned(
        &config,
        &[probe.to_str().unwrap(), &targets.to_string()],
        tmp.path(),
    );
    spec.datagrams = true;
    let stdout = enter_as(None, &spec).stdout;
    let lines = stdout
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap());
    let mut through: Vec<String> = lines
        .filter(|act| act["category"] == "network" && act["through"] == true)
        .map(|act| act["act"].as_str().unwrap().to_owned())
        .collect();
    through.sort();
    assert_eq!(
        through,
        [
            "ipv6_socket",
            "netlink_route",
            "say_by_udp",
            "say_by_udp6",
            "udp_send"
        ]
    );
}
