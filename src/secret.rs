//! A token that callers must know.

use crate::error::InvalidConfig;
use std::hint::black_box;
use std::sync::Arc;

/// A shorter one could be guessed.
const SHORTEST: usize = 16;

#[derive(Clone)]
pub(crate) struct Secret(Arc<str>);

impl Secret {
    /// An error does not show the secret.
    pub(crate) fn new(field: &'static str, secret: &str) -> Result<Self, InvalidConfig> {
        if secret.len() < SHORTEST || !secret.bytes().all(|byte| byte.is_ascii_graphic()) {
            let allowed = "at least 16 visible ASCII characters";
            let shown = format!("{} bytes long", secret.len());
            return Err(InvalidConfig::new(field, shown, allowed));
        }
        Ok(Self(secret.into()))
    }

    /// Takes the same time wherever the two differ. The length is no secret.
    pub(crate) fn is(&self, given: &[u8]) -> bool {
        let secret = self.0.as_bytes();
        let differences = secret.iter().zip(given).map(|(a, b)| a ^ b);
        let differ = differences.fold(0, |all, difference| black_box(all | difference));
        secret.len() == given.len() && differ == 0
    }
}
