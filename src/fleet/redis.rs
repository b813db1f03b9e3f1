//! The store on Redis or Valkey.

use super::{Ask, Granted, Reply, Store, StoreError};
use redis::aio::{ConnectionLike, ConnectionManager, ConnectionManagerConfig};
use redis::{
    Client, Cmd, ErrorKind, IntoConnectionInfo, RedisError, Script, ServerErrorKind, Value,
};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

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
    current: Arc<Mutex<Option<ConnectionManager>>>,
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

    /// A request has failed.
    fn failed(&self, _: &RedisError) {}
}

impl<C: ConnectionLike + Clone + Send + Sync + 'static> Connect for C {
    type Connection = C;

    fn connection(&self) -> Result<C, RedisError> {
        Ok(self.clone())
    }
}

/// A request has to come back soon; the fleet gives up earlier.
const RESPONSE: Duration = Duration::from_millis(500);
const CONNECT: Duration = Duration::from_secs(1);

impl Connect for Reconnecting {
    type Connection = ConnectionManager;

    fn connection(&self) -> Result<ConnectionManager, RedisError> {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(manager) = &*current {
            return Ok(manager.clone());
        }
        let config = ConnectionManagerConfig::new()
            .set_response_timeout(Some(RESPONSE))
            .set_connection_timeout(Some(CONNECT))
            // The circuit of the fleet decides when to try again.
            .set_number_of_retries(0);
        let manager = ConnectionManager::new_lazy_with_config(self.client.clone(), config)?;
        Ok(current.insert(manager).clone())
    }

    /// A primary that became a replica keeps its connections: the name may lead to another server now.
    fn failed(&self, error: &RedisError) {
        if error.kind() == ErrorKind::Server(ServerErrorKind::ReadOnly) {
            *self.current.lock().unwrap_or_else(PoisonError::into_inner) = None;
        }
    }
}

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
            script: Arc::new(Script::new(include_str!("lease.lua"))),
        }
    }

    fn command(name: &str, script: &str, ask: &Ask) -> Cmd {
        let micros = |time: Duration| time.as_micros().to_string();
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
        let asked = async {
            let mut connection = self.connection.connection()?;
            let by_hash = Self::command("EVALSHA", self.script.get_hash(), &ask);
            match by_hash.query_async(&mut connection).await {
                // Each node of a cluster learns the script by itself.
                Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::NoScript) => {
                    let whole = Self::command("EVAL", include_str!("lease.lua"), &ask);
                    whole.query_async(&mut connection).await
                }
                answered => answered,
            }
        };
        let value: Result<Value, RedisError> = asked.await;
        let parsed =
            value.and_then(|value| redis::from_redis_value(value).map_err(RedisError::from));
        let (kind, turns, ahead, level, peers, now, tat): (i64, u32, i64, String, u32, u64, u64) =
            parsed.map_err(|error| {
                self.connection.failed(&error);
                StoreError::new(error)
            })?;
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
