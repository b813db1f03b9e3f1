use super::{Ask, Reply};
use std::future::Future;

/// Keeps the quota of a fleet. Implement it to use another database than Redis; a [`Ledger`](super::Ledger) decides.
///
/// ```
/// use buttress::fleet::{Ask, Ledger, Reply, Store, StoreError};
/// use std::sync::Mutex;
/// use std::time::{SystemTime, UNIX_EPOCH};
///
/// /// One process, for tests.
/// #[derive(Default)]
/// struct InMemory(Mutex<Ledger>);
///
/// impl Store for InMemory {
///     async fn lease(&self, ask: Ask) -> Result<Reply, StoreError> {
///         let now = SystemTime::now().duration_since(UNIX_EPOCH).map_err(StoreError::new)?;
///         let now = u64::try_from(now.as_micros()).map_err(StoreError::new)?;
///         Ok(self.0.lock().unwrap().lease(&ask, now))
///     }
/// }
/// ```
pub trait Store: Send + Sync + 'static {
    /// Leases turns, in one transaction. The fleet drops the future after its `store_timeout`; what was leased then
    /// lapses. A request that is carried out after [`Ask::not_after`] must take nothing.
    fn lease(&self, ask: Ask) -> impl Future<Output = Result<Reply, StoreError>> + Send;
}

/// Why a store gave no answer.
#[derive(Debug, thiserror::Error)]
#[error("the store of the fleet failed: {0}")]
pub struct StoreError(#[source] Box<dyn std::error::Error + Send + Sync>);

impl StoreError {
    /// Wraps an error of the store.
    pub fn new(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self(error.into())
    }
}
