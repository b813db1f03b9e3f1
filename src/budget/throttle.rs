//! The token rule of gRPC (gRFC A6, "Throttling Retry Attempts and Hedged RPCs").

use super::{TOKEN, thousandths};
use crate::error::InvalidConfig;
use crate::sync::{AtomicU32, Ordering::Relaxed};

const MAX_TOKENS: u32 = 1_000;

/// The tokens. Amounts are in thousandths of a token.
#[derive(Debug)]
pub(super) struct Throttle {
    tokens: AtomicU32,
    max: u32,
    earned: u32,
}

impl Throttle {
    pub(super) fn new(max_tokens: u32, token_ratio: f64) -> Result<Self, InvalidConfig> {
        if !(1..=MAX_TOKENS).contains(&max_tokens) {
            return Err(InvalidConfig::new("max_tokens", max_tokens, "1 to 1000"));
        }
        let earned = thousandths(token_ratio).filter(|earned| *earned > 0);
        let earned = earned.ok_or_else(|| {
            InvalidConfig::new("token_ratio", token_ratio, "finite and at least 0.001")
        })?;
        let max = max_tokens * TOKEN;
        Ok(Self {
            tokens: AtomicU32::new(max),
            max,
            earned,
        })
    }

    pub(super) fn allows(&self) -> bool {
        self.tokens() > self.max / 2
    }

    pub(super) fn success(&self) {
        self.update(|tokens| tokens.saturating_add(self.earned).min(self.max));
    }

    pub(super) fn failure(&self) {
        self.update(|tokens| tokens.saturating_sub(TOKEN));
    }

    pub(super) fn tokens(&self) -> u32 {
        self.tokens.load(Relaxed)
    }

    pub(super) fn is_full(&self) -> bool {
        self.tokens() == self.max
    }

    pub(super) fn max_tokens(&self) -> u32 {
        self.max / TOKEN
    }

    pub(super) fn ratio(&self) -> f64 {
        f64::from(self.earned) / f64::from(TOKEN)
    }

    fn update(&self, next: impl Fn(u32) -> u32) {
        // Relaxed: the word is the only data. A full throttle is not written to.
        let changed = |tokens| Some(next(tokens)).filter(|next| *next != tokens);
        let _unchanged = self.tokens.fetch_update(Relaxed, Relaxed, changed);
    }
}
