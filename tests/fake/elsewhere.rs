//! An MCP server on HTTP that misbehaves on demand. The first line of its stdout is its port; each
//! further line is a request that it got, as JSON.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a fake server may fail by panicking, and its log is its stdout"
)]

#[path = "support/elsewhere.rs"]
mod elsewhere;

fn main() {
    let flags: Vec<String> = std::env::args().skip(1).collect();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    println!("{}", listener.local_addr().unwrap().port());
    elsewhere::serve_with(&listener, &flags, None);
}
