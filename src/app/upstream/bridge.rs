//! One bridge: takes lines in, keeps what is open, and ends in order.

use super::Settings;
use super::ask::{Ask, Mirrors, SESSION, VERSION, describe, repeat};
use super::order::Order;
use super::out::Out;
use super::outfit::Outfit;
use super::phone::Phone;
use super::renew::Visit;
use crate::app::http::watched;
use crate::cell::egress::dial::Dialer;
use crate::mcp::method::{CANCELLED, INITIALIZE, INITIALIZED};
use crate::mcp::{self, Direction, Envelope, Era, Kind, Raw, RequestId};
use crate::proxy::{Trouble, answer_for};
use crate::transport::frame::{Frame, FrameBuf};
use crate::transport::http::{Bytes, Client, HeaderMap, Method};
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::future::poll_fn;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;
use tokio::io::Interest;
use tokio::sync::Notify;
use tokio::task::{AbortHandle, JoinSet};

/// Requests that are open at one time, and bytes of them that are kept; beyond, they are refused.
const OPEN: usize = 4096;
const KEPT: usize = 64 << 20;
/// What those are about, for who counts refusals.
const TOLD_OF: &str = "notifications";
/// A message that wants no answer is given up after so long.
pub(super) const TOLD: Duration = Duration::from_secs(30);
/// What comes after the handshake waits for its end, for so long.
pub(super) const GREETED: Duration = Duration::from_secs(10);
/// A request that was cancelled may still be answered, for so long.
const CANCELLED_FOR: Duration = Duration::from_secs(10);
/// From the end of input: for answers that are on their way, and for saying goodbye. Together they are
/// less than what any server is given before it is asked to end.
const LAST_ANSWERS: Duration = Duration::from_millis(700);
const GOODBYE: Duration = Duration::from_millis(300);

/// A request that is being worked on.
#[derive(Debug)]
struct Working {
    task: AbortHandle,
    era: Era,
    bytes: usize,
    serial: u64,
}

#[derive(Debug)]
pub(super) struct Bridge {
    pub(super) settings: Arc<Settings>,
    pub(super) client: Rc<Client<Phone>>,
    pub(super) out: Out,
    pub(super) visit: RefCell<Visit>,
    pub(super) renewing: tokio::sync::Mutex<()>,
    pub(super) mirrors: RefCell<Mirrors>,
    pub(super) order: Order,
    /// The server has answered a request of this bridge.
    pub(super) known: Cell<bool>,
    open: RefCell<HashMap<RequestId, Working>>,
    kept: Cell<usize>,
    serial: Cell<u64>,
    /// Rings when nothing is open any more.
    idle: Notify,
    tasks: RefCell<JoinSet<()>>,
}

impl Bridge {
    /// A bridge, and where its lines come from.
    pub(super) fn new(
        settings: Arc<Settings>,
        [stdin, stdout, dialer]: [OwnedFd; 3],
    ) -> io::Result<(Self, OwnedFd)> {
        let phone = Phone::new(Dialer::new(dialer), settings.inside);
        let client = Client::new(settings.place.clone(), settings.tls.clone(), phone);
        let bridge = Self {
            settings,
            client: Rc::new(client),
            out: Out::new(stdout)?,
            visit: RefCell::default(),
            renewing: tokio::sync::Mutex::default(),
            mirrors: RefCell::default(),
            order: Order::default(),
            known: Cell::new(false),
            open: RefCell::default(),
            kept: Cell::new(0),
            serial: Cell::new(0),
            idle: Notify::new(),
            tasks: RefCell::default(),
        };
        Ok((bridge, stdin))
    }

    /// Works until the input ends, or nobody makes connections any more.
    pub(super) async fn run(self: Rc<Self>, stdin: OwnedFd) {
        let work = async {
            if let Err(error) = self.read(stdin).await {
                tracing::error!("the bridge to the server cannot read: {error}");
            }
            self.finish().await;
        };
        let (mut work, mut phone) = (pin!(work), pin!(self.client.dialer().attend()));
        let (mut pump, mut usher) = (pin!(self.out.pump()), pin!(self.usher()));
        let mut checks = pin!(self.check());
        // Whichever ends first ends all.
        poll_fn(|cx| {
            let ended = work.as_mut().poll(cx).is_ready()
                || phone.as_mut().poll(cx).is_ready()
                || pump.as_mut().poll(cx).is_ready()
                || usher.as_mut().poll(cx).is_ready()
                || checks.as_mut().poll(cx).is_ready();
            if ended {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        })
        .await;
        self.tasks.borrow_mut().abort_all();
    }

    async fn read(self: &Rc<Self>, stdin: OwnedFd) -> io::Result<()> {
        let pipe = watched(stdin, Interest::READABLE)?;
        // Rules may have made a line longer than it came.
        let cap = self
            .settings
            .request
            .saturating_mul(2)
            .saturating_add(64 * 1024);
        let mut frames = FrameBuf::new(cap);
        loop {
            let mut guard = pipe.readable().await?;
            match frames.read_from(pipe.get_ref().as_fd()) {
                Ok(0) => return Ok(()),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    frames.shrink();
                    guard.clear_ready();
                    continue;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            }
            while let Some(frame) = frames.next() {
                if let Frame::Line(line) = frame {
                    let bytes = Bytes::copy_from_slice(frames.bytes(line.range()));
                    frames.release(line.next());
                    self.accept(bytes).await;
                }
            }
        }
    }

    /// Whether a message gives a request up.
    pub(super) fn cancels(envelope: &Envelope<'_>) -> bool {
        matches!(&envelope.kind, Kind::Notification { method, .. } if method == CANCELLED)
    }

    /// Whether a message ends the handshake.
    pub(super) fn greets(envelope: &Envelope<'_>) -> bool {
        matches!(&envelope.kind, Kind::Notification { method, .. } if method == INITIALIZED)
    }

    /// Sends one line, whose turn it is and which holds `envelope`.
    pub(super) async fn pass(self: &Rc<Self>, line: &Bytes, envelope: &Envelope<'_>) {
        match &envelope.kind {
            Kind::Request { .. } => {
                if let Some(ask) = Ask::of(envelope, line) {
                    self.ask(ask).await;
                }
            }
            Kind::Notification { .. } if Self::greets(envelope) => {
                // Its order counts: a server may refuse what comes before it.
                let told = tokio::time::timeout(GREETED, self.tell(line)).await;
                note_untold(told.unwrap_or(Err(slow())));
                self.visit.borrow_mut().greeting = Some(line.clone());
                self.listen();
            }
            Kind::Notification { params, .. } if Self::cancels(envelope) => {
                self.cancel(*params, line);
            }
            _ => self.tell_aside(line),
        }
    }

    async fn ask(self: &Rc<Self>, ask: Ask) {
        let bytes = ask.line.len();
        let kept = self.kept.get().saturating_add(bytes);
        if self.open.borrow().len() >= OPEN || kept > KEPT {
            let crowded = answer_for(&ask.line, &Trouble::Crowded);
            return self.out.line(&crowded).await;
        }
        self.kept.set(kept);
        self.serial.set(self.serial.get() + 1);
        let serial = self.serial.get();
        let (key, era) = (ask.key.clone(), ask.era);
        if ask.method == INITIALIZE {
            self.order.begin(key.clone());
        }
        let task = self.spawn(Rc::clone(self).exchange(ask, serial));
        let working = Working {
            task,
            era,
            bytes,
            serial,
        };
        self.open.borrow_mut().insert(key, working);
    }

    /// A request is over.
    pub(super) fn closed(&self, key: &RequestId, serial: u64) {
        let mut open = self.open.borrow_mut();
        if open
            .get(key)
            .is_some_and(|working| working.serial == serial)
            && let Some(working) = open.remove(key)
        {
            self.kept.set(self.kept.get().saturating_sub(working.bytes));
            self.order.over(key);
        }
        drop(open);
        self.rest();
    }

    /// Says so when nothing is open and nothing waits.
    pub(super) fn rest(&self) {
        if self.open.borrow().is_empty() && self.order.is_empty() {
            self.idle.notify_one();
        }
    }

    /// Where there are no sessions, closing the stream is what cancels; elsewhere the server is told.
    fn cancel(self: &Rc<Self>, params: Option<Raw<'_>>, line: &Bytes) {
        let Some(key) = mcp::cancelled_request(params).map(|id| id.key()) else {
            return;
        };
        if self.order.cancel(&key) {
            return self.rest();
        }
        let working = self
            .open
            .borrow()
            .get(&key)
            .map(|working| (working.task.clone(), working.era, working.serial));
        let Some((task, era, serial)) = working else {
            return;
        };
        if era == Era::Modern {
            task.abort();
            return self.closed(&key, serial);
        }
        self.tell_aside(line);
        // Whoever waits for this session to begin waits no longer.
        self.order.over(&key);
        let bridge = Rc::clone(self);
        self.spawn(async move {
            tokio::time::sleep(CANCELLED_FOR).await;
            task.abort();
            bridge.closed(&key, serial);
        });
    }

    fn tell_aside(self: &Rc<Self>, line: &Bytes) {
        let (bridge, line) = (Rc::clone(self), line.clone());
        self.spawn(async move {
            let told = tokio::time::timeout(TOLD, bridge.tell(&line)).await;
            note_untold(told.unwrap_or(Err(slow())));
        });
    }

    /// Says something that wants no answer.
    async fn tell(self: &Rc<Self>, line: &Bytes) -> Result<(), Trouble> {
        let generation = self.visit.borrow().generation;
        match self.tell_once(line).await {
            Err(Trouble::Status { status: 404, .. }) if self.visit.borrow().session.is_some() => {
                self.renew(generation).await?;
                self.tell_once(line).await
            }
            told => told,
        }
    }

    pub(super) async fn tell_once(&self, line: &Bytes) -> Result<(), Trouble> {
        let outfit = self.settings.wardrobe.outfit(TOLD_OF)?;
        let headers = self.headers_of(&outfit, line);
        let mut answer = outfit.unless_revoked(self.post(&headers, line)).await?;
        let status = answer.status.as_u16();
        self.settings.wardrobe.judged(&outfit, TOLD_OF, status);
        if !answer.status.is_success() {
            return Err(Trouble::Status {
                status,
                after: None,
            });
        }
        // Read to its end, so that the connection can be used again.
        drop(answer.whole(64 * 1024).await);
        Ok(())
    }

    pub(super) async fn post(
        &self,
        headers: &HeaderMap,
        line: &Bytes,
    ) -> Result<super::exchange::Heard, Trouble> {
        let sent = self.client.send(Method::POST, headers, line.clone()).await;
        sent.map_err(super::exchange::trouble)
    }

    /// Everything that the headers of this message say.
    pub(super) fn headers_of(&self, outfit: &Outfit, line: &[u8]) -> HeaderMap {
        let mut headers = outfit.headers();
        describe(&mut headers);
        // What is sent was proved when it was taken, or is our own.
        let Ok(envelope) = mcp::parse(line, Direction::ToServer) else {
            return headers;
        };
        repeat(&mut headers, &envelope, &self.mirrors.borrow());
        let opens = matches!(&envelope.kind, Kind::Request { method, .. } if method == INITIALIZE);
        if !headers.contains_key(VERSION) && !opens {
            self.visit.borrow().sign(&mut headers);
        }
        headers
    }

    pub(super) fn spawn(&self, task: impl Future<Output = ()> + 'static) -> AbortHandle {
        let mut tasks = self.tasks.borrow_mut();
        while tasks.try_join_next().is_some() {}
        tasks.spawn_local(task)
    }

    /// The input has ended: what is on its way may still come, then the session is given back.
    async fn finish(&self) {
        let answered = async {
            while !(self.open.borrow().is_empty() && self.order.is_empty()) {
                self.idle.notified().await;
            }
        };
        drop(tokio::time::timeout(LAST_ANSWERS, answered).await);
        // Without anything to sign in with there is nobody to say goodbye as.
        if let Ok(outfit) = self.settings.wardrobe.outfit(TOLD_OF) {
            let mut headers = outfit.headers();
            self.visit.borrow().sign(&mut headers);
            if headers.contains_key(SESSION) {
                let goodbye = self.client.send(Method::DELETE, &headers, Bytes::new());
                drop(tokio::time::timeout(GOODBYE, goodbye).await);
            }
        }
        drop(tokio::time::timeout(GOODBYE, self.out.settle()).await);
    }
}

pub(super) fn slow() -> Trouble {
    Trouble::Broken("it took too long".to_owned())
}

fn note_untold(told: Result<(), Trouble>) {
    if let Err(trouble) = told {
        tracing::warn!("the server did not take a message: {trouble}");
    }
}
