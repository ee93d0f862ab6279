//! The floor of every proxy: one thread that copies bytes between sockets and looks at none.

use std::io;
use std::rc::Rc;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{LocalSet, spawn_local};

/// Relays to `to`, for as long as it lives; says its own address first.
pub(crate) fn run(to: &str) -> io::Result<()> {
    super::server::alone(async move {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        super::server::announce(listener.local_addr()?)?;
        let to = to.to_owned();
        LocalSet::new()
            .run_until(async move {
                loop {
                    let (client, _) = listener.accept().await?;
                    let server = TcpStream::connect(&to).await?;
                    client.set_nodelay(true)?;
                    server.set_nodelay(true)?;
                    let (client, server) = (Rc::new(client), Rc::new(server));
                    spawn_local(copy(Rc::clone(&client), Rc::clone(&server)));
                    spawn_local(copy(server, client));
                }
            })
            .await
    })
}

/// Ends with either side.
async fn copy(from: Rc<TcpStream>, to: Rc<TcpStream>) {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        if from.readable().await.is_err() {
            return;
        }
        let mut rest = match from.try_read(&mut buffer) {
            Ok(read @ 1..) => buffer.get(..read).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            Ok(0) | Err(_) => {
                rustix::net::shutdown(&*to, rustix::net::Shutdown::Write).ok();
                return;
            }
        };
        while !rest.is_empty() {
            match to.try_write(rest) {
                Ok(wrote) => rest = rest.get(wrote..).unwrap_or_default(),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if to.writable().await.is_err() {
                        return;
                    }
                }
                Err(_) => return,
            }
        }
    }
}
