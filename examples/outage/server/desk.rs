//! Where calls queue for workers.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use http::header::RETRY_AFTER;
use http::{Response, StatusCode};
use http_body_util::Empty;
use hyper::body::Bytes;
use tokio::sync::mpsc::{self, error::TrySendError};
use tokio::sync::oneshot;
use tokio::time::sleep;

use super::Work;
use crate::run::Log;
use crate::scenario::{QUEUE, REFUSAL, RETRY_AFTER_SECONDS, SLOWDOWN, Trouble, WORK, WORKERS};

/// A call that waits for its response.
type Caller = oneshot::Sender<StatusCode>;

#[derive(Debug)]
pub struct Desk {
    trouble: Mutex<Option<Trouble>>,
    accepted: mpsc::Sender<Caller>,
    refused: mpsc::UnboundedSender<Caller>,
    log: Arc<Log<Work>>,
}

impl Desk {
    pub fn open(log: Arc<Log<Work>>) -> Arc<Self> {
        let (accepted, accepted_calls) = mpsc::channel(QUEUE);
        let (refused, refused_calls) = mpsc::unbounded_channel();
        let desk = Arc::new(Self {
            trouble: Mutex::new(None),
            accepted,
            refused,
            log,
        });
        let calls = Arc::new(tokio::sync::Mutex::new((accepted_calls, refused_calls)));
        for _ in 0..WORKERS {
            let (desk, calls) = (Arc::clone(&desk), Arc::clone(&calls));
            tokio::spawn(async move {
                loop {
                    let mut queues = calls.lock().await;
                    let (accepted, refused) = &mut *queues;
                    // Refusals come first: a server must read a call before it can refuse it.
                    let (caller, is_accepted) = tokio::select! { biased;
                        Some(caller) = refused.recv() => (caller, false),
                        Some(caller) = accepted.recv() => (caller, true),
                    };
                    drop(queues);
                    desk.work(caller, is_accepted).await;
                }
            });
        }
        desk
    }

    pub fn suffer(&self, trouble: Option<Trouble>) {
        *self.lock() = trouble;
    }

    fn lock(&self) -> MutexGuard<'_, Option<Trouble>> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub async fn respond(&self) -> Response<Empty<Bytes>> {
        let mut response = Response::new(Empty::new());
        if *self.lock() == Some(Trouble::Failing) {
            *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
            let headers = response.headers_mut();
            headers.insert(RETRY_AFTER, RETRY_AFTER_SECONDS.into());
        } else {
            *response.status_mut() = self.queue().await;
        }
        response
    }

    async fn queue(&self) -> StatusCode {
        let (caller, response) = oneshot::channel();
        if let Err(TrySendError::Full(caller)) = self.accepted.try_send(caller) {
            let _ = self.refused.send(caller);
        }
        let response = response.await;
        response.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }

    /// A worker does not notice that the caller has given up.
    async fn work(&self, caller: Caller, is_accepted: bool) {
        let is_slow = *self.lock() == Some(Trouble::Slow);
        let (took, status) = match (is_accepted, is_slow) {
            (false, _) => (REFUSAL, StatusCode::SERVICE_UNAVAILABLE),
            (true, false) => (WORK, StatusCode::OK),
            (true, true) => (WORK * SLOWDOWN, StatusCode::OK),
        };
        sleep(took).await;
        let heard = caller.send(status).is_ok();
        self.log.push(Work {
            at: self.log.now(),
            took,
            useful: heard && is_accepted,
        });
    }
}
