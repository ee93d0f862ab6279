//! Events on the wire, and bytes that are none.

use super::*;
use crate::cell::LayerReport;
use crate::cell::spawn::protocol::{
    Exit, Facts, HEADER_BYTES, MAGIC, MAX_BODY, ProtocolError, words,
};
use proptest::prelude::*;

#[test]
fn events_survive_the_wire_and_texts_are_cut_to_fit() {
    let long = "\u{1}é".repeat(10_000);
    let events = [
        Event::Progress {
            cell: 3,
            text: long.clone(),
        },
        Event::Access {
            texts: Err(long.clone()),
        },
        Event::Failed {
            cell: 1,
            exit_code: 77,
            message: long.clone(),
        },
        Event::Exited {
            cell: 0,
            exit: Exit::Signal(31),
            cause: long,
            limit: None,
        },
    ];
    for event in events {
        let kind = std::mem::discriminant(&event);
        let (bytes, fds) = event.encode().unwrap();
        assert!(bytes.len() <= HEADER_BYTES + MAX_BODY);
        let back = Event::decode(&bytes, fds).unwrap();
        assert_eq!(std::mem::discriminant(&back), kind);
    }
}

#[test]
fn what_carries_descriptors_brings_them_and_no_others() {
    let fd = || std::io::stdin().lock().try_clone_fd();
    let (reply, none) = (Some(fd()), None);
    let events = [
        (
            Event::Asked {
                asked: Asked::Drain { within: Some(7) },
                reply: fd(),
            },
            1,
        ),
        (Event::Frozen { facts: Some(fd()) }, 1),
        (Event::Frozen { facts: None }, 0),
        (
            Event::Config {
                text: Ok(fd()),
                reply,
            },
            2,
        ),
        (
            Event::Config {
                text: Err("no".to_owned()),
                reply: none,
            },
            0,
        ),
    ];
    for (event, count) in events {
        let text = format!("{event:?}");
        let (bytes, fds) = event.encode().unwrap();
        assert_eq!(fds.len(), count, "{text}");
        let back = Event::decode(&bytes, fds).unwrap();
        assert_eq!(
            std::mem::discriminant(&back),
            std::mem::discriminant(&Event::decode(&bytes, back_fds(&back)).unwrap())
        );
        let surplus = vec![fd(), fd(), fd()];
        assert!(Event::decode(&bytes, surplus).is_err(), "{text}");
    }
}

/// As many descriptors as an event came with.
fn back_fds(event: &Event) -> Vec<OwnedFd> {
    let fd = || std::io::stdin().lock().try_clone_fd();
    let count = match event {
        Event::Asked { .. } | Event::Frozen { facts: Some(_) } => 1,
        Event::Config {
            text: Ok(_),
            reply: Some(_),
        } => 2,
        _ => 0,
    };
    (0..count).map(|_| fd()).collect()
}

#[test]
fn an_event_without_the_descriptors_it_announces_is_refused() {
    let fds = vec![std::io::stdin().lock().try_clone_fd()];
    let started = Event::Started {
        cell: 0,
        pid: 7,
        report: LayerReport::default(),
        facts: Facts::default(),
        fds,
    };
    let (bytes, _fds) = started.encode().unwrap();
    let refused = ProtocolError::Descriptors {
        found: 0,
        expected: 1,
    };
    assert_eq!(Event::decode(&bytes, vec![]).unwrap_err(), refused);
}

#[test]
fn descriptors_on_an_event_that_has_none_are_refused() {
    let (bytes, _) = Event::Progress {
        cell: 0,
        text: "x".into(),
    }
    .encode()
    .unwrap();
    let fds = vec![std::io::stdin().lock().try_clone_fd()];
    let refused = ProtocolError::Descriptors {
        found: 1,
        expected: 0,
    };
    assert_eq!(Event::decode(&bytes, fds).unwrap_err(), refused);
}

trait Clone1 {
    fn try_clone_fd(&self) -> OwnedFd;
}

impl<T: std::os::fd::AsFd> Clone1 for T {
    fn try_clone_fd(&self) -> OwnedFd {
        self.as_fd().try_clone_to_owned().unwrap()
    }
}

proptest! {
    #[test]
    fn any_bytes_are_a_valid_event_or_an_error(
        kind in 0u32..16, cell in 0u32..70, count in 0u32..3,
        body in proptest::collection::vec(any::<u8>(), 0..200)
    ) {
        let mut bytes = words(MAGIC, kind, cell, count).to_vec();
        bytes.extend_from_slice(&body);
        drop(Event::decode(&bytes, vec![]));
        drop(Event::decode(&body, vec![]));
    }
}
