//! Connections from `__dial`, which answers in any order: whoever asked first gets the first.

use crate::app::http::watched;
use crate::cell::egress::dial::{Dialed, Dialer};
use crate::transport::http::Dial;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::net::TcpStream;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::time::Duration;
use tokio::io::Interest;
use tokio::sync::{Notify, oneshot};

/// Time for a name, all its addresses and a connection; and for a server in the cell, which has to start.
const PATIENCE: Duration = Duration::from_secs(15);
const START: Duration = Duration::from_secs(35);

type Waiting = oneshot::Sender<Result<TcpStream, String>>;

/// The way to the one server.
#[derive(Debug, Clone)]
pub(in crate::app) struct Phone(Rc<Line>);

#[derive(Debug)]
struct Line {
    dialer: Dialer,
    patience: Duration,
    waiting: RefCell<VecDeque<Waiting>>,
    gone: Cell<bool>,
    /// Rings when it is.
    over: Notify,
}

impl Phone {
    /// `inside`: the server is in a cell.
    pub(in crate::app) fn new(dialer: Dialer, inside: bool) -> Self {
        Self(Rc::new(Line {
            dialer,
            patience: if inside { START } else { PATIENCE },
            waiting: RefCell::default(),
            gone: Cell::new(false),
            over: Notify::new(),
        }))
    }

    /// Hands on what comes, until nothing more will.
    pub(in crate::app) async fn attend(&self) {
        if let Err(error) = self.hand_on().await
            && error.kind() != io::ErrorKind::UnexpectedEof
        {
            tracing::error!("the process that makes connections: {error}");
        }
        self.0.gone.set(true);
        self.0.over.notify_waiters();
        self.0.waiting.borrow_mut().clear();
    }

    /// Whether nobody makes connections any more, now or within a time.
    pub(super) async fn is_gone_within(&self, time: Duration) -> bool {
        let over = self.0.over.notified();
        if !self.0.gone.get() {
            drop(tokio::time::timeout(time, over).await);
        }
        self.0.gone.get()
    }

    async fn hand_on(&self) -> io::Result<()> {
        let socket: OwnedFd = self.0.dialer.as_fd().try_clone_to_owned()?;
        let socket = watched(socket, Interest::READABLE)?;
        loop {
            let mut guard = socket.readable().await?;
            let mut made = match self.0.dialer.take()? {
                Dialed::Stream(stream) => Ok(stream),
                Dialed::Failed(why) => Err(why),
                Dialed::Nothing => {
                    guard.clear_ready();
                    continue;
                }
            };
            // Who has given up meanwhile leaves his to the next.
            while let Some(waiting) = self.0.waiting.borrow_mut().pop_front() {
                match waiting.send(made) {
                    Ok(()) => break,
                    Err(back) => made = back,
                }
            }
        }
    }
}

impl Dial for Phone {
    async fn dial(&self) -> Result<TcpStream, String> {
        let gone = || "the process that makes connections has ended".to_owned();
        if self.0.gone.get() {
            return Err(gone());
        }
        let (sender, receiver) = oneshot::channel();
        self.0.dialer.ask().map_err(|error| error.to_string())?;
        self.0.waiting.borrow_mut().push_back(sender);
        match tokio::time::timeout(self.0.patience, receiver).await {
            Ok(made) => made.map_err(|_| gone())?,
            Err(_) => Err("it took too long".to_owned()),
        }
    }
}
