//! The store on Redis or Valkey.

use super::{Ask, Granted, Reply, Store, StoreError};
use crate::rate_limit::micros;
use redis::aio::{ConnectionLike, ConnectionManager, ConnectionManagerConfig};
use redis::{Client, Cmd, ErrorKind, IntoConnectionInfo, RedisError, Script, ServerErrorKind};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// A [`Store`] on Redis 5 or newer, or any Valkey (feature `redis`).
///
/// One script decides, on the clock of the server. It uses two keys, `buttress:{key}` and `buttress:{key}:peers`,
/// which a cluster keeps in one slot. They expire a minute after the last request.
///
/// ```no_run
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use buttress::fleet::{Fleet, RedisStore};
/// use buttress::{Quota, RateLimitLayer};
///
/// let store = RedisStore::open("redis://127.0.0.1")?;
/// let fleet = Fleet::builder(Quota::per_second(1000), store).key("payments-api").build()?;
/// let layer = RateLimitLayer::from(fleet.limiter());
/// # drop(layer);
/// # Ok(())
/// # }
/// ```
pub struct RedisStore<C = Reconnecting> {
    connection: C,
    script: Arc<Script>,
}

/// Connects when it is first needed, and again after errors that call for another server.
#[derive(Clone)]
pub struct Reconnecting {
    client: Client,
    current: Arc<Mutex<Current>>,
}

#[derive(Default)]
struct Current {
    manager: Option<ConnectionManager>,
    /// Since when no request was answered in time.
    silent: Option<Instant>,
}

/// Makes a connection for each request. Clones of a connection share it.
pub trait Connect: Send + Sync + 'static {
    /// The connection.
    type Connection: ConnectionLike + Send;

    /// A connection.
    ///
    /// # Errors
    /// If there is none.
    fn connection(&self) -> Result<Self::Connection, RedisError>;

    /// A request was answered, also with an error, or could not be sent.
    fn answered(&self, _: Option<&RedisError>) {}

    /// A request was not answered in time.
    fn unanswered(&self) {}
}

impl<C: ConnectionLike + Clone + Send + Sync + 'static> Connect for C {
    type Connection = C;

    fn connection(&self) -> Result<C, RedisError> {
        Ok(self.clone())
    }
}

const CONNECT: Duration = Duration::from_secs(1);
/// How long a connection may leave requests unanswered before another is made: its other end may be gone.
const SILENT: Duration = Duration::from_secs(1);

impl Reconnecting {
    fn current(&self) -> MutexGuard<'_, Current> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Connect for Reconnecting {
    type Connection = ConnectionManager;

    fn connection(&self) -> Result<ConnectionManager, RedisError> {
        let mut current = self.current();
        if let Some(manager) = &current.manager {
            return Ok(manager.clone());
        }
        let config = ConnectionManagerConfig::new()
            .set_response_timeout(None) // the fleet has one
            .set_connection_timeout(Some(CONNECT))
            .set_number_of_retries(0); // the circuit of the fleet decides when to try again
        let manager = ConnectionManager::new_lazy_with_config(self.client.clone(), config)?;
        // It connects only while somebody waits for it, and a request may not wait long enough.
        let mut first = manager.clone();
        tokio::spawn(async move { redis::cmd("PING").query_async::<()>(&mut first).await });
        Ok(current.manager.insert(manager).clone())
    }

    fn answered(&self, error: Option<&RedisError>) {
        let mut current = self.current();
        current.silent = None;
        let keep = error.is_none_or(|error| match error.kind() {
            // A primary that became a replica keeps its connections. The name may lead to another server now.
            ErrorKind::Server(kind) => kind != ServerErrorKind::ReadOnly,
            _ => false,
        });
        if !keep {
            current.manager = None;
        }
    }

    fn unanswered(&self) {
        let mut current = self.current();
        if current.silent.get_or_insert_with(Instant::now).elapsed() >= SILENT {
            *current = Current::default();
        }
    }
}

/// Tells the connection that a request was dropped without an answer.
struct Unanswered<'a, C: Connect>(Option<&'a C>);

impl<C: Connect> Drop for Unanswered<'_, C> {
    fn drop(&mut self) {
        if let Some(connection) = self.0 {
            connection.unanswered();
        }
    }
}

/// The kind of the answer, turns, ahead, level, peers, now, tat.
type Answer = (i64, u32, i64, String, u32, u64, u64);

const SCRIPT: &str = include_str!("lease.lua");

impl RedisStore {
    /// The server at this address, such as `redis://127.0.0.1` or `redis+unix:///run/redis.sock`. Connects with the
    /// first request, so that a process starts without its store.
    ///
    /// # Errors
    /// If the address is not valid.
    pub fn open(address: impl IntoConnectionInfo) -> Result<Self, RedisError> {
        let client = Client::open(address)?;
        let current = Arc::default();
        Ok(Self::of(Reconnecting { client, current }))
    }
}

impl<C: ConnectionLike + Clone + Send + Sync + 'static> RedisStore<C> {
    /// A connection of your own: a [`ConnectionManager`], a multiplexed connection, or one to a cluster. It must lead to
    /// primaries only.
    pub fn new(connection: C) -> Self {
        Self::of(connection)
    }
}

impl<C> RedisStore<C> {
    fn of(connection: C) -> Self {
        Self {
            connection,
            script: Arc::new(Script::new(SCRIPT)),
        }
    }

    fn command(name: &str, script: &str, ask: &Ask) -> Cmd {
        let mut command = redis::cmd(name);
        command
            .arg(script)
            .arg(2)
            .arg(format!("buttress:{{{}}}", ask.key))
            .arg(format!("buttress:{{{}}}:peers", ask.key))
            .arg(format!("{:x}", ask.process))
            .arg(format!("{:.3}", ask.interval.as_nanos() as f64 / 1e3))
            .arg(ask.burst)
            .arg(ask.need)
            .arg(ask.want)
            .arg(ask.unit)
            .arg(micros(ask.max_wait))
            .arg(micros(ask.horizon))
            .arg(format!("{:.3}", ask.rate))
            .arg(ask.seen)
            .arg(ask.not_after.unwrap_or(0));
        command
    }
}

impl<C: Connect> Store for RedisStore<C> {
    async fn lease(&self, ask: Ask) -> Result<Reply, StoreError> {
        let mut unanswered = Unanswered(Some(&self.connection));
        let asked = async {
            let mut connection = self.connection.connection()?;
            let by_hash = Self::command("EVALSHA", self.script.get_hash(), &ask);
            match by_hash.query_async(&mut connection).await {
                // Each node of a cluster learns the script by itself.
                Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::NoScript) => {
                    let whole = Self::command("EVAL", SCRIPT, &ask);
                    whole.query_async(&mut connection).await
                }
                answered => answered,
            }
        };
        let answered: Result<Answer, RedisError> = asked.await;
        unanswered.0 = None;
        self.connection.answered(answered.as_ref().err());
        let (kind, turns, ahead, level, peers, now, tat) = answered.map_err(StoreError::new)?;
        let grant = match kind {
            1 => Granted::Turns { turns, ahead },
            0 => Granted::Full(u64::try_from(ahead).map_err(StoreError::new)?),
            _ => Granted::Late,
        };
        Ok(Reply {
            grant,
            level: level.parse().map_err(StoreError::new)?,
            peers,
            now,
            tat,
        })
    }
}

impl<C> fmt::Debug for RedisStore<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisStore").finish_non_exhaustive()
    }
}

impl fmt::Debug for Reconnecting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reconnecting").finish_non_exhaustive()
    }
}
