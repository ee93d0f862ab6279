//! What a cell's way to a host costs: bytes in a second and connections, direct, through a plain TCP relay
//! that only copies, and out of a cell. The client is this program again; the host is a thread here.

use super::{Failure, median};
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::time::Instant;

const PIECE: usize = 64 * 1024;
/// Connections of one round, one after the other.
const CONNECTIONS: u32 = 200;

/// Prints the table.
pub(super) fn report(mib: u64, rounds: u64) -> Result<(), Failure> {
    let host = serve(answer)?;
    let relay = serve(move |client| copy(client, host))?;
    let mut all: [Vec<[f64; 3]>; 3] = Default::default();
    for _ in 0..rounds {
        for (at, figures) in all.iter_mut().enumerate() {
            figures.push(match at {
                0 => run(&[], host, mib)?,
                1 => run(&[], relay, mib)?,
                _ => run(&enclosed(host), host, mib)?,
            });
        }
    }
    println!("{mib} MiB each way, {CONNECTIONS} connections, medians of {rounds} rounds.\n");
    println!("| | direct | plain relay | out of a cell | to the relay |\n|---|---|---|---|---|");
    let names = [
        "to the host, MiB/s",
        "from the host, MiB/s",
        "a connection with one byte each way, µs",
    ];
    for (row, name) in names.iter().enumerate() {
        let [direct, relay, cell] =
            [0, 1, 2].map(|at: usize| median(all[at].iter().map(|figures| figures[row])));
        let ratio = cell / relay;
        println!("| {name} | {direct:.0} | {relay:.0} | {cell:.0} | {ratio:.2} |");
    }
    println!();
    Ok(())
}

/// Accepts on a port of the kernel's choice, with a thread for each connection.
fn serve(
    handle: impl Fn(TcpStream) -> io::Result<()> + Send + Clone + 'static,
) -> io::Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let handle = handle.clone();
            std::thread::spawn(move || handle(stream));
        }
    });
    Ok(address)
}

/// The host: `u` swallows what comes and answers with one byte, `d` sends as many bytes as it is told,
/// `p` answers with one byte.
fn answer(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut order = [0; 9];
    stream.read_exact(&mut order)?;
    let [kind, count @ ..] = order;
    let count = u64::from_be_bytes(count);
    match kind {
        b'u' => {
            io::copy(&mut (&mut stream).take(count), &mut io::sink())?;
            stream.write_all(b"!")
        }
        b'd' => io::copy(&mut io::repeat(7).take(count), &mut stream).map(drop),
        _ => stream.write_all(b"!"),
    }
}

/// The least that a relay can do in user space.
fn copy(client: TcpStream, host: SocketAddr) -> io::Result<()> {
    let host = TcpStream::connect(host)?;
    client.set_nodelay(true)?;
    host.set_nodelay(true)?;
    let one_way = |mut from: TcpStream, mut to: TcpStream| -> io::Result<()> {
        let mut bytes = vec![0; PIECE];
        loop {
            let count = from.read(&mut bytes)?;
            if count == 0 {
                return to.shutdown(Shutdown::Write);
            }
            to.write_all(bytes.get(..count).unwrap_or_default())?;
        }
    };
    let back = (host.try_clone()?, client.try_clone()?);
    let back = std::thread::spawn(move || one_way(back.0, back.1));
    one_way(client, host)?;
    back.join().unwrap_or(Ok(()))
}

/// The words before the client, for a cell that may reach the host.
fn enclosed(host: SocketAddr) -> Vec<String> {
    let program = env!("CARGO_BIN_EXE_cofferdam");
    let host = host.to_string();
    let words = [
        program,
        "exec",
        "-q",
        "--require",
        "namespace-net",
        "--allow-host",
        &host,
        "--",
    ];
    words.map(str::to_owned).to_vec()
}

fn run(before: &[String], to: SocketAddr, mib: u64) -> Result<[f64; 3], Failure> {
    let own = std::env::current_exe()?;
    let own = own.to_string_lossy().into_owned();
    let client = [own, "__client".to_owned(), to.to_string(), mib.to_string()];
    let words: Vec<&String> = before.iter().chain(&client).collect();
    let (program, rest) = words.split_first().ok_or("no words")?;
    let output = Command::new(program)
        .args(rest)
        .stderr(Stdio::inherit())
        .output()?;
    if !output.status.success() {
        return Err(format!("{words:?}: {}", output.status).into());
    }
    let said = String::from_utf8(output.stdout)?;
    let figures: Vec<f64> = said
        .split_whitespace()
        .map(str::parse)
        .collect::<Result<_, _>>()?;
    Ok(figures.try_into().map_err(|_| "three figures")?)
}

/// Prints the three figures.
pub(super) fn client(to: SocketAddr, mib: u64) -> Result<(), Failure> {
    let order = |kind: u8, count: u64| -> io::Result<TcpStream> {
        let mut stream = TcpStream::connect(to)?;
        stream.set_nodelay(true)?;
        stream.write_all(&[&[kind][..], &count.to_be_bytes()].concat())?;
        Ok(stream)
    };
    let bytes = mib * 1024 * 1024;
    let piece = vec![7; PIECE];

    let begin = Instant::now();
    let mut stream = order(b'u', bytes)?;
    for _ in 0..bytes / PIECE as u64 {
        stream.write_all(&piece)?;
    }
    stream.read_exact(&mut [0])?;
    let up = begin.elapsed();

    let begin = Instant::now();
    let mut stream = order(b'd', bytes)?;
    let mut room = vec![0; PIECE];
    let mut left = bytes;
    while left > 0 {
        let count = stream.read(&mut room)? as u64;
        if count == 0 {
            return Err("the host ended early".into());
        }
        left -= count;
    }
    let down = begin.elapsed();

    let begin = Instant::now();
    for _ in 0..CONNECTIONS {
        order(b'p', 1)?.read_exact(&mut [0])?;
    }
    let each = begin.elapsed() / CONNECTIONS;
    let rate = |time: std::time::Duration| mib as f64 / time.as_secs_f64();
    println!("{} {} {}", rate(up), rate(down), each.as_secs_f64() * 1e6);
    Ok(())
}
