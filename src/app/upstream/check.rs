//! The check itself: one request of our own from time to time, by whichever bridge stands.

use super::Settings;
use super::ask::repeat;
use super::bridge::Bridge;
use super::exchange::trouble;
use crate::mcp::{self, Direction};
use crate::proxy::Trouble;
use crate::transport::http::{Bytes, ClientError, HeaderMap, HeaderValue, Method, header};
use std::future::pending;
use std::rc::Rc;
use std::time::{Duration, Instant};

/// What requests of ours are about, for those who count refusals.
const CHECK: &str = "health";
/// Bytes of an answer that are read, so that its connection can be used again.
const READ: usize = 64 * 1024;
const REST: Duration = Duration::from_millis(100);
/// Every server of 2026-07-28 answers it, and every other one says that it does not know it.
const DISCOVER: &str = r#"{"jsonrpc":"2.0","id":"cofferdam-health","method":"server/discover","params":{"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}}}}"#;

impl Settings {
    /// Refuses what a server would be asked that is down.
    pub(super) fn unless_down(&self) -> Result<(), Trouble> {
        let wait = self
            .vital
            .as_ref()
            .and_then(|vital| vital.wait(Instant::now()));
        wait.map_or(Ok(()), |wait| Err(Trouble::Down(wait)))
    }
}

impl Bridge {
    /// The server has answered.
    pub(super) fn reached(&self) {
        if !self.known.replace(true)
            && let Some(vital) = &self.settings.vital
        {
            vital.sooner.notify_waiters();
        }
    }

    /// Checks whether the server is there, for as long as the bridge stands.
    pub(super) async fn check(self: &Rc<Self>) {
        let Some(vital) = &self.settings.vital else {
            return pending().await;
        };
        if self.settings.inside {
            // It is another process than before.
            vital.forget();
        }
        loop {
            let sooner = vital.sooner.notified();
            if self.settings.inside && !self.known.get() {
                // One in a cell may take its time to start, and ends with its process.
                sooner.await;
                continue;
            }
            let now = Instant::now();
            if !vital.take(now) {
                drop(tokio::time::timeout_at(vital.due().into(), sooner).await);
                continue;
            }
            let limit = vital.rules.timeout;
            let result = match tokio::time::timeout(limit, self.look()).await {
                Ok(Some(result)) => result,
                // There was nothing to look with.
                Ok(None) => continue,
                Err(_) => Err(Trouble::Unreachable(format!(
                    "it does not answer its health check within {} ms",
                    limit.as_millis()
                ))),
            };
            vital.checked(&result.as_ref().copied(), Instant::now());
            self.settings
                .note(result.err().map(|trouble| trouble.to_string()));
        }
    }

    /// One check; `None` when none can be made: all connections are in use, or there is no credential.
    async fn look(&self) -> Option<Result<(), Trouble>> {
        let rules = &self.settings.vital.as_ref()?.rules;
        if self.client.is_full() {
            return None;
        }
        let outfit = self.settings.wardrobe.outfit(CHECK).ok()?;
        let mut headers = outfit.headers();
        let sent = match &rules.path {
            Some(path) => {
                let any = HeaderValue::from_static("*/*");
                headers.insert(header::ACCEPT, any);
                let sent = self
                    .client
                    .send_to(path, Method::GET, &headers, Bytes::new());
                sent.await
            }
            None => {
                let body = Bytes::from_static(DISCOVER.as_bytes());
                self.dress(&mut headers);
                self.client.send(Method::POST, &headers, body).await
            }
        };
        let mut answer = match sent {
            Ok(answer) => answer,
            Err(ClientError::Crowded) => return None,
            Err(error) => return Some(Err(trouble(error))),
        };
        let status = answer.status.as_u16();
        // A stream that does not end is an answer too; it is closed with the check.
        drop(tokio::time::timeout(REST, answer.whole(READ)).await);
        let well = match rules.path {
            Some(_) => answer.status.is_success(),
            None => status < 500,
        };
        Some(match well {
            true => Ok(()),
            false => Err(Trouble::Status {
                status,
                after: None,
            }),
        })
    }

    fn dress(&self, headers: &mut HeaderMap) {
        super::ask::describe(headers);
        if let Ok(envelope) = mcp::parse(DISCOVER.as_bytes(), Direction::ToServer) {
            repeat(headers, &envelope, &self.mirrors.borrow());
        }
    }
}
