//! What is forwarded, what is refused, and with which id: the table that DESIGN §4 promises.

use super::*;
use pretty_assertions::assert_eq;
use proptest::prelude::*;

fn to_server(line: &[u8]) -> Result<Envelope<'_>, Malformed> {
    parse(line, Direction::ToServer)
}

fn fault(line: &str) -> Fault {
    to_server(line.as_bytes()).expect_err(line).fault
}

#[test]
fn the_four_kinds_are_told_apart_and_their_parts_slice_exactly() {
    let line =
        br#" { "jsonrpc" : "2.0", "id" : 7 , "method":"tools\/call", "params" : {"name":"x"} } "#;
    let envelope = to_server(line).unwrap();
    let Kind::Request { id, method, params } = envelope.kind else {
        panic!("{envelope:?}");
    };
    assert_eq!(method, "tools/call");
    assert_eq!(id.key(), RequestId::Number(7));
    assert_eq!(&line[id.start..id.start + id.raw.len()], b"7");
    assert_eq!(&line[params.unwrap().span()], br#"{"name":"x"}"#);

    let line = br#"{"jsonrpc":"2.0","id":"a","result":{"x":[1,2]}}"#;
    let Kind::Result { id, result } = to_server(line).unwrap().kind else {
        panic!();
    };
    assert_eq!(id.key(), RequestId::Text("a".into()));
    assert_eq!(&line[result.span()], br#"{"x":[1,2]}"#);
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic_and_walkers_end(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _unused = to_server(&bytes).is_ok();
        prop_assert!(members(&bytes).count() <= bytes.len());
        prop_assert!(elements(&bytes).count() <= bytes.len());
        let _unused = text(&bytes);
    }
}

#[test]
fn a_refused_line_still_gives_its_id() {
    let bad =
        to_server(br#"{"jsonrpc":"2.0","id":9,"method":"x","params":{"a":NaN}}"#).unwrap_err();
    assert_eq!(bad.fault, Fault::Number);
    assert_eq!(bad.id.unwrap().1, RequestId::Number(9));
    assert!(bad.request);
    assert_eq!(fault("[]"), Fault::Batch);
}
