//! What the server says, on its way to policy: whole lines in the order in which they came. While
//! policy does not read, whoever has the next line waits, and reads nothing more from the server.

use crate::app::http::watched;
use crate::transport::writer::Outlet;
use std::cell::{Cell, RefCell};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::Notify;

#[derive(Debug)]
pub(super) struct Out {
    outlet: RefCell<Outlet>,
    pipe: AsyncFd<OwnedFd>,
    /// The rest of a line of which a part is written.
    rest: RefCell<Vec<u8>>,
    stuck: Notify,
    room: Notify,
    broken: Cell<bool>,
}

impl Out {
    /// Takes over a pipe that does not block.
    pub(super) fn new(fd: OwnedFd) -> io::Result<Self> {
        Ok(Self {
            pipe: watched(fd.try_clone()?, Interest::WRITABLE)?,
            outlet: RefCell::new(Outlet::exclusive(fd)),
            rest: RefCell::default(),
            stuck: Notify::new(),
            room: Notify::new(),
            broken: Cell::new(false),
        })
    }

    /// Takes one line, which ends with LF, as soon as the one before is written. Whoever gives up
    /// waiting has said nothing: no line is ever cut.
    pub(super) async fn line(&self, line: &[u8]) {
        while !self.rest.borrow().is_empty() {
            self.room.notified().await;
        }
        if self.broken.get() {
            return;
        }
        match self.outlet.borrow_mut().write(line) {
            Ok(count) if count < line.len() => {
                let rest = line.get(count..).unwrap_or_default();
                self.rest.borrow_mut().extend_from_slice(rest);
                self.stuck.notify_one();
            }
            Ok(_) => {}
            // Nobody reads: the end of all is on its way.
            Err(_) => self.broken.set(true),
        }
    }

    /// Writes what did not fit, as it is read.
    pub(super) async fn pump(&self) {
        loop {
            self.stuck.notified().await;
            while !self.rest.borrow().is_empty() {
                let Ok(mut guard) = self.pipe.writable().await else {
                    return;
                };
                let mut rest = self.rest.borrow_mut();
                match self.outlet.borrow_mut().write(&rest) {
                    Ok(count) => {
                        rest.drain(..count);
                        if !rest.is_empty() {
                            guard.clear_ready();
                        }
                    }
                    Err(_) => {
                        self.broken.set(true);
                        rest.clear();
                    }
                }
            }
            self.rest.borrow_mut().shrink_to(64 * 1024);
            self.room.notify_waiters();
        }
    }

    /// Waits until everything is written.
    pub(super) async fn settle(&self) {
        while !self.rest.borrow().is_empty() && !self.broken.get() {
            self.room.notified().await;
        }
    }
}

impl AsFd for Out {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.pipe.get_ref().as_fd()
    }
}
